"""Leases on several GPUs of one machine, held by one MPS daemon."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cumulus.chronos.contract import Device
from cumulus.chronos.contract.variables import MPS_MODE, join, selection
from cumulus.chronos.device import discover
from cumulus.chronos.enforce import health
from cumulus.errors import ChronosError
from tests.e2e.conftest import Machine, manifest

from .conftest import FITS, GIB, HUGE, Node, memory_used, until
from .daemon import answers, job
from .test_opencl import do, start

Measured = Callable[[str, object], None]
REFUSED = "CUDA_ERROR_OUT_OF_MEMORY"
ALL_REDUCE = """
import os, torch, torch.distributed as dist, torch.multiprocessing as processes
def work(rank):
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method="tcp://127.0.0.1:%d", rank=rank, world_size=2)
    total = torch.full((2**24,), rank + 1.0, device="cuda")
    dist.all_reduce(total)
    torch.cuda.synchronize()
    if rank == 0:
        print('{"sum": %%g}' %% total[-1].item(), flush=True)
    dist.destroy_process_group()
if __name__ == "__main__":
    processes.spawn(work, nprocs=2)
"""


@pytest.fixture(scope="session")
def gpus(gpu: Device) -> list[Device]:
    found = [device for device in discover() if device.type == "gpu"]
    if len(found) < 2:
        pytest.skip("THE TESTS OF SEVERAL GPUS ARE LEFT OUT: there is one GPU here")
    return found


@pytest.fixture
def nodes(gpus: list[Device], node: Node) -> Iterator[list[Node]]:
    """One for each GPU, in the same home."""
    others = [Node(gpu, node.home) for gpu in gpus[1:]]
    yield [node, *others]
    for other in others:
        other.close()


def both(nodes: list[Node], share: float) -> dict[str, str]:
    """The environment of a job with a lease of that share on each GPU."""
    merged: dict[str, str] = {}
    for node in nodes:
        merged = join(merged, node.lease(f"both-{node.gpu.index}", share))
    return merged | selection([(node.gpu.id, -1, -1) for node in nodes])


def test_gpus_are_numbered_as_the_driver_does(gpus: list[Device]) -> None:
    assert [device.index for device in gpus] == list(range(len(gpus)))
    assert len({device.id for device in gpus}) == len(gpus)


def test_a_lease_on_each_gpu_reaches_that_gpu_alone(nodes: list[Node]) -> None:
    before = [memory_used(node.gpu) for node in nodes]
    held = [node.cuda("alloc", "device", node.part(0.1), **node.lease(f"l{node.gpu.index}", 0.5)) for node in nodes[:1]]
    assert [program.line()["outcome"] for program in held] == ["ok"]
    grown = [memory_used(node.gpu) - some for node, some in zip(nodes, before, strict=True)]
    assert grown[0] >= nodes[0].part(0.1)
    assert grown[1] < 2 * GIB


def test_a_job_with_two_gpus_is_limited_on_each(nodes: list[Node], measured: Measured) -> None:
    for number in ("0", "1"):
        sizes = ("device", nodes[0].part(HUGE), "device", nodes[0].part(FITS))
        program = nodes[0].cuda("alloc", *sizes, JOB_DEVICE=number, **both(nodes, 0.05))
        outcomes = [program.line()["outcome"] for _ in "12"]
        measured(f"25 % and 2.5 % of GPU {number} of a job with 5 % of two", outcomes)
        assert outcomes == [REFUSED, "ok"]
        program.kill()


def test_opencl_counts_each_gpus_memory_towards_its_own_lease(nodes: list[Node], nvidia_opencl: dict[str, str]) -> None:
    """Whatever the order in which the job is shown them: the first is here the node's second."""
    shares = {1: 0.02, 0: 0.2}
    leases = [nodes[index].lease(f"opencl-{index}", share) for index, share in shares.items()]
    shown = selection([(nodes[index].gpu.id, -1, -1) for index in shares])
    program = start(nodes[0], join(*leases), shown, nvidia_opencl)
    assert do(program, "buffer", size=nodes[0].part(0.05))["error"] == -4
    assert do(program, "buffer", size=nodes[0].part(0.0125))["error"] == 0


def test_full_speed_on_two_gpus_at_once(nodes: list[Node], full_rate: float, measured: Measured) -> None:
    leases = [node.lease(f"whole-{node.gpu.index}", 1.0) for node in nodes]
    rates = [rate / full_rate for rate in nodes[0].rates(*leases)]
    measured("leases of 100 % on two GPUs at once, part of a GPU's rate", [f"{rate:.3f}" for rate in rates])
    assert all(rate > 0.9 for rate in rates)


def test_a_fault_on_one_gpu_and_work_on_the_other(nodes: list[Node], measured: Measured) -> None:
    """What is alive on the other GPU goes on; new work waits on both until the node has ended what hangs on."""
    here, there = nodes[:2]
    neighbour = here.cuda("alloc", "device", GIB, **here.lease("neighbour", 0.25))
    bystander = there.cuda("alloc", "device", GIB, **there.lease("bystander", 0.25))
    assert [neighbour.line()["outcome"], bystander.line()["outcome"]] == ["ok", "ok"]
    here.cuda("fault", **here.lease("culprit", 0.25)).line()
    alive = {"same GPU": neighbour.alive(), "other GPU": bystander.alive()}
    devices = [node.gpu for node in nodes]
    measured("after a fault on one of two GPUs, alive", alive)
    fresh = there.outcome("device", GIB, **there.lease("fresh", 0.25))
    measured("new work on the other GPU meanwhile", fresh)
    assert fresh == "CUDA_ERROR_MPS_SERVER_NOT_READY"
    assert alive == {"same GPU": False, "other GPU": True}

    def reason() -> str:
        return next(found.reason for found in health(devices, here.home) if found.type == "MPSReady")

    assert reason() == "Faulted"
    until(lambda: neighbour.process.poll() is not None)
    took = until(lambda: here.outcome("device", GIB, **here.lease("after", 0.25)) == "ok", 20)
    measured("new work on the faulted GPU once the node had looked, s", f"{took:.1f}")
    assert bystander.alive()
    assert reason() == "Answers"


def test_isolated_a_job_with_two_gpus_is_refused(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """It would reach neither: each lease's daemon has a GPU of its own."""
    monkeypatch.setenv(MPS_MODE, "isolated")
    with pytest.raises(ChronosError, match="one MPS daemon a lease"):
        both(nodes, 0.05)


def test_a_job_of_two_gpus_reduces_over_both(gpus: list[Device], machine: Machine, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    program = tmp_path / "reduce.py"
    program.write_text(ALL_REDUCE % 29871)
    spec = manifest("reduce", f"exec {sys.executable} {program}", memory="20%", minEnforcement="guarded")
    spec["spec"]["gpu"]["count"] = 2
    # NVLink's multicast would need rights of its own.
    spec["spec"]["env"] = [{"name": "NCCL_NVLS_ENABLE", "value": "0"}]
    machine.apply(spec)
    machine.ok("wait", "job", "reduce", "--for=condition=Succeeded", "--timeout=120s")
    assert answers(machine, "reduce") == [{"sum": 3}]


def test_a_gang_takes_a_gpu_each(gpus: list[Device], machine: Machine) -> None:
    machine.apply(manifest("gang", job("hold", GIB, 3), memory="60%", replicas=2))
    machine.ok("wait", "job", "gang", "--for=condition=Running", "--timeout=60s")
    assert len({found["status"]["device"] for found in machine.items("partitions")}) == 2
    machine.ok("wait", "job", "gang", "--for=condition=Succeeded", "--timeout=60s")
