"""What torchrun starts for test_pytorch."""

from __future__ import annotations

import sys

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from cumulus import checkpoint
from cumulus.checkpoint.adapters.pytorch import ResumableLoader, TrainingState, load_sharded, save_sharded

CUDA = torch.cuda.is_available() and torch.cuda.device_count() > 1
FULL = torch.arange(64.0).reshape(8, 8)


def sharded() -> None:
    mesh = init_device_mesh(DEVICE, (distributed.get_world_size(),))
    rank = distributed.get_rank()
    state = {"w": distribute_tensor(FULL.to(DEVICE), mesh, [Shard(0)]), "step": 4}
    save_sharded(state, step=4)
    try:
        with checkpoint.saving(5, shared=True):
            if rank == 1:
                raise OSError("no")
        raise AssertionError("it was not void")
    except (checkpoint.Voided, OSError):
        pass
    empty = {"w": distribute_tensor(torch.zeros(8, 8, device=DEVICE), mesh, [Shard(0)]), "step": 0}
    found = load_sharded(empty)
    assert found is not None
    assert (found.step, empty["step"], found.manifest.world) == (4, 4, 2)
    assert torch.equal(empty["w"].full_tensor().cpu(), FULL)


def reshard() -> None:
    state = {"w": torch.zeros(8, 8), "step": 0}
    found = load_sharded(state)
    assert found is not None
    assert torch.equal(state["w"], FULL)


def ddp(stop: str, target: str) -> None:
    rank, world = distributed.get_rank(), distributed.get_world_size()
    torch.manual_seed(1)
    data = [(torch.randn(4), torch.randn(1)) for _ in range(64)]
    torch.manual_seed(rank)
    device = torch.device(DEVICE, rank) if CUDA else torch.device("cpu")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1)).to(device)
    model = torch.nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.Adam(model.parameters())
    loader = ResumableLoader(data, 4, shuffle=True, rank=rank, world=world)
    training = TrainingState(model, optimizer, replicated=True, loader=loader)
    step = training.restore()
    while loader.epoch < 4:
        for x, y in loader:
            step += 1
            loss = (model(x.to(device)) - y.to(device)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if stop == "stop" and step == 13 and rank == 1:
                checkpoint.default().stop()
            if checkpoint.should_checkpoint():
                training.save(step, wait=False)
                checkpoint.exit_if_ending()
    assert stop == "go", "it was not stopped"
    if rank == 0:
        torch.save([parameter.detach().cpu() for parameter in model.parameters()], target)


if __name__ == "__main__":
    DEVICE = "cuda" if CUDA else "cpu"
    distributed.init_process_group("nccl" if CUDA else "gloo")
    if CUDA:
        torch.cuda.set_device(distributed.get_rank())
    try:
        {"sharded": sharded, "reshard": reshard, "ddp": ddp}[sys.argv[1]](*sys.argv[2:])
    finally:
        distributed.destroy_process_group()
