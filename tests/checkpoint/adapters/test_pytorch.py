"""PyTorch: bit for bit, with all that is random, and in the middle of an epoch."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

from cumulus import checkpoint
from cumulus.checkpoint import api, states
from tests.checkpoint.adapters.conftest import Lease, Leases

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]
else:
    from cumulus.checkpoint.adapters.pytorch import ResumableLoader, TrainingState

pytestmark = pytest.mark.skipif(torch is None, reason="NOT TESTED: PyTorch is not installed")

DEVICE = "cuda" if torch is not None and torch.cuda.is_available() else "cpu"


def train(*, wait: bool = True, workers: int = 0) -> Any:
    """Three epochs; dropout, shuffling, a scheduler, and noise by each of the three random generators."""
    for seed in (torch.manual_seed, numpy.random.seed, random.seed):
        seed(1)
    torch.use_deterministic_algorithms(True)
    data = [(torch.randn(8), torch.randn(1)) for _ in range(50)]
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1)).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    loader = ResumableLoader(data, batch_size=8, shuffle=True, seed=2, num_workers=workers)
    training = TrainingState(model, optimizer, scheduler=scheduler, loader=loader)
    step = training.restore()
    while loader.epoch < 3:
        for x, y in loader:
            step += 1
            noise = random.random() + numpy.random.random()
            loss = (model(x.to(DEVICE)) - y.to(DEVICE) - noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if checkpoint.should_checkpoint():
                training.save(step, wait=wait)
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter += 1  # What comes after a save does not reach it.
                checkpoint.exit_if_ending()
    assert step == 21
    return [parameter.detach().cpu().clone() for parameter in model.parameters()]


def same(one: list[Any], other: list[Any]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize("wait", [True, False])
def test_cut_anywhere_it_reaches_the_same_weights(leases: Leases, wait: bool) -> None:
    whole = leases.whole(train)
    rng = random.Random(6)
    cuts = sorted(rng.sample(range(1, 21), 10))
    lengths = [after - before for before, after in zip([0, *cuts], cuts, strict=False)]
    assert same(leases.cut(lambda: train(wait=wait), lengths), whole)


def test_with_workers_that_read_ahead(leases: Leases) -> None:
    assert same(leases.whole(train), leases.cut(lambda: train(workers=2), [5, 9]))


def test_tensors_are_loaded_as_plain_data(leases: Leases, tmp_path: Path) -> None:
    api.use(Lease(tmp_path / "l1", 10**9))
    shared = torch.arange(10.0)
    state = {"a": shared, "view": shared[2:5], "half": torch.ones(3, dtype=torch.bfloat16), "n": [1, ("x", None)]}
    for wait in (True, False):
        checkpoint.save_checkpoint(state, step=1, wait=wait)
        loaded = checkpoint.load_checkpoint()
        assert torch.equal(loaded["a"], shared)
        assert loaded["view"].untyped_storage().data_ptr() == loaded["a"].untyped_storage().data_ptr()
        assert loaded["half"].dtype is torch.bfloat16
        assert loaded["n"] == [1, ("x", None)]
    checkpoint.save_checkpoint({"a": shared, "numpy": numpy.arange(3), "set": {1}}, step=2)
    assert checkpoint.load_checkpoint()["set"] == {1}


def test_what_weights_only_refuses_is_still_read(leases: Leases, tmp_path: Path) -> None:
    api.use(Lease(tmp_path / "l1", 10**9))
    checkpoint.save_checkpoint({"t": torch.ones(2), "path": Path("x")}, step=2)
    assert checkpoint.load_checkpoint()["path"] == Path("x")


def test_a_snapshot_holds_what_the_state_held() -> None:
    model = torch.nn.Linear(3, 2)
    state = {"model": model.state_dict(), "parameter": model.weight, "sparse": torch.eye(3).to_sparse()}
    kept = states.snapshot(state)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
    import io

    buffer = io.BytesIO()
    kept.write(buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    assert torch.equal(loaded["model"]["weight"], before)
    assert torch.equal(loaded["parameter"], before)
    assert isinstance(loaded["parameter"], torch.nn.Parameter)
    assert torch.equal(loaded["sparse"].to_dense(), torch.eye(3))


def test_another_data_set_is_refused() -> None:
    loader = ResumableLoader([*range(10)], batch_size=3)
    assert len(loader) == 4
    assert [batch.tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    with pytest.raises(checkpoint.CheckpointError, match="another data set or seed"):
        ResumableLoader([*range(11)]).load_state_dict(loader.state_dict())
    parts = [[*ResumableLoader([*range(10)], 2, rank=rank, world=2, drop_last=True)] for rank in range(2)]
    assert [[batch.tolist() for batch in part] for part in parts] == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]


def torchrun(arguments: list[str], directory: Path, ranks: int) -> subprocess.CompletedProcess[str]:
    program = Path(__file__).with_name("distributed_program.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(program)]
    root = str(Path(__file__).parents[3])
    env = {**os.environ, "PYTHONPATH": root, "CUMULUS_CHECKPOINT_PATH": str(directory / "l1"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], env=env, capture_output=True, text=True, timeout=110, check=False, cwd=directory
    )


def test_two_ranks_save_and_load_shards(tmp_path: Path) -> None:
    """DCP over two ranks, resumed by two, and by one; one rank that fails voids the step."""
    done = torchrun(["sharded"], tmp_path, 2)
    assert done.returncode == 0, done.stderr[-3000:]
    done = torchrun(["reshard"], tmp_path, 1)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_ranks_train_the_same_after_a_stop(tmp_path: Path) -> None:
    """DistributedDataParallel: one rank is told to stop, both save the same step and end; what goes on is identical."""
    for place, stops in (("whole", []), ("cut", ["stop"])):
        (tmp_path / place).mkdir()
        for stop in [*stops, "go"]:
            done = torchrun(["ddp", stop, str(tmp_path / place / "weights")], tmp_path / place, 2)
            assert (done.returncode == 0) == (stop == "go"), done.stderr[-3000:]
    whole, cut = (torch.load(tmp_path / place / "weights") for place in ("whole", "cut"))
    assert same(whole, cut)
