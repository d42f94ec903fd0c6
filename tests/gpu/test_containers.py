"""Jobs in containers: services of a real Swarm of one node, which get the leased GPU and are held to the lease, as
another user than root and through namespaces of their own."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.base import EnvVar, LeaseRef, Workload, WorkloadState
from cumulus.backends.swarm.backend import SwarmBackend
from cumulus.backends.swarm.engine import Engine
from cumulus.chronos.contract import Device, LeaseRequest, LeaseState
from cumulus.chronos.contract.variables import MPS_MODE
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.parking import rows
from cumulus.chronos.parking.self_test import SelfTest
from cumulus.resources.enforcement import Sharing
from cumulus.secrets import JobSecrets

from . import engine as engines
from .conftest import FITS, GIB, HUGE, Node, memory_used, part, until
from .test_parking import DRIVERS_OWN

Measured = Callable[[str, object], None]
REFUSED = "CUDA_ERROR_OUT_OF_MEMORY"
JOB = ("python", "-S", "/tests/gpu/job.py")
OPENCL = """
import json, pyopencl
context = pyopencl.create_some_context(interactive=False)
def attempt(size):
    try:
        pyopencl.Buffer(context, pyopencl.mem_flags.READ_WRITE, size)
        return "ok"
    except pyopencl.Error as error:
        return error.code
device = context.devices[0]
sizes = {"huge": attempt(%d), "fits": attempt(%d)}
print(json.dumps({"name": device.name, "memory": device.global_mem_size, **sizes}))
"""


class Bed:
    """Services on leases of this machine's ledger. `store` is that of the control plane whose the Swarm is."""

    def __init__(self, engine: Engine, store: Path, directory: Path, gpu: Device) -> None:
        self.gpu = gpu
        self.ledger = Ledger(directory / "chronos")
        self.ledger.devices()
        self.backend = SwarmBackend(
            str(store), engine, JobSecrets(directory / "secrets"),
            store_id=lambda: "tests-gpu", prepare=lambda node, lease: self.ledger.prepare(lease.id),
        )  # fmt: skip
        self.node = engine.info()["Name"]

    def start(
        self, job: str, share: float, *command: str, seconds: float = 600.0, env: tuple[EnvVar, ...] = (),
        sharing: Sharing = Sharing.CONCURRENT,
    ) -> Workload:  # fmt: skip
        """`share` 0 is no lease."""
        # As each job has one: a node starts one of a name once in its life, an attempt that was removed never starts
        # again, and the monitor of an earlier test's ledger ends what comes late to a lease of an id that it had.
        uid = f"{job}-{uuid.uuid4().hex[:8]}"
        leases = (self.lease(uid, share, seconds, sharing),) if share else ()
        work = Workload(
            name=f"default.{uid}-a1-r0", namespace="default", job=job, job_uid=uid, attempt=1, replica=0,
            replicas=1, node=self.node, command=command, leases=leases, grace=1.0, image=engines.IMAGE,
            env=env, submitter="root", submitter_admin=True,
        )  # fmt: skip
        self.backend.start(work)
        return work

    def lease(self, id: str, share: float, seconds: float, sharing: Sharing) -> LeaseRef:
        memory, compute = int(self.gpu.memory_bytes * share), int(1000 * share)
        request = LeaseRequest(id, self.gpu.index, memory, compute, seconds, grace=1.0, sharing=sharing)
        lease = self.ledger.grant(request)
        return LeaseRef(
            id=id, device=lease.device, device_id=self.gpu.id, device_name=self.gpu.name, device_type="gpu",
            platform_index=self.gpu.platform_index, device_index=self.gpu.device_index, memory_bytes=memory,
            compute=compute, token=lease.token, expires_at=lease.expires_at, enforcement="guarded",
        )  # fmt: skip

    def finish(self, work: Workload) -> WorkloadState:
        try:
            until(lambda: self.state(work).finished, 60)
        except AssertionError as error:
            log = (self.ledger.home / "monitor.log").read_text()
            raise AssertionError(f"{self.state(work)}: {self.log(work)}\n{log}") from error
        return self.state(work)

    def state(self, work: Workload) -> WorkloadState:
        found = self.backend.get(work.name)
        return WorkloadState.STARTING if found is None else found.state

    def answers(self, work: Workload) -> list[Any]:
        """What it printed that is JSON."""
        return [json.loads(line) for line in self.log(work).splitlines() if line.startswith("{")]

    def log(self, work: Workload) -> str:
        return b"".join(self.backend.logs(work.job_uid, 1, 0)).decode()

    def close(self) -> None:
        for found in self.backend.list():
            self.backend.stop(found.name, 0.0)
        until(lambda: all(found.state.finished for found in self.backend.list()), 60)
        for found in self.backend.list():
            self.backend.remove(found.name)
        for lease in self.ledger.list():
            self.ledger.release(lease.id)
        until(lambda: not self.ledger.list(), 30)
        self.backend.close()
        self.ledger.close()


@pytest.fixture(scope="module")
def engine(gpu: Device, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if os.geteuid() or (lacking := engines.missing()):
        why = "root is needed" if os.geteuid() else f"not installed: {', '.join(lacking)}"
        pytest.skip(f"THE TESTS OF CONTAINERS ON A GPU ARE LEFT OUT: {why}")
    with engines.engine(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def bed(engine: Engine, store: Path, node: Node, gpu: Device, tmp_path: Path) -> Iterator[Bed]:
    """`node` is for the layer and for MPS, which it stops."""
    made = Bed(engine, store, tmp_path, gpu)
    node.home = made.ledger.home
    try:
        yield made
    finally:
        made.close()


def test_a_quarter_of_the_memory_in_a_lease_of_5_percent_is_refused_in_a_container(
    bed: Bed, measured: Measured
) -> None:
    work = bed.start(
        "small", 0.05, *JOB, "alloc", "device", str(part(bed.gpu, HUGE)), "device", str(part(bed.gpu, FITS))
    )
    until(lambda: len(bed.answers(work)) == 2 or bed.state(work).finished, 60)
    measured("25 % and 2.5 % of the GPU in a container's lease of 5 %", bed.log(work).splitlines())
    assert [answer["outcome"] for answer in bed.answers(work)] == [REFUSED, "ok"]


def test_a_container_sees_its_gpu_and_no_root(bed: Bed, gpu: Device) -> None:
    work = bed.start("look", 0.05, "sh", "-c", "id -u; nvidia-smi -L; ls /dev")
    assert bed.finish(work) is WorkloadState.SUCCEEDED, bed.log(work)
    lines = bed.log(work).splitlines()
    assert lines[0] == "1000"
    assert len([line for line in lines if line.startswith("GPU ")]) == 1
    assert gpu.id in bed.log(work)
    assert {"nvidiactl", "nvidia-uvm"} < set(lines)


def test_a_container_without_a_lease_sees_no_gpu(bed: Bed) -> None:
    work = bed.start("none", 0, "sh", "-c", "ls /dev; python -c 'import ctypes; ctypes.CDLL(\"libcuda.so.1\")'")
    assert bed.finish(work) is WorkloadState.FAILED
    assert not any(line.startswith("nvidia") for line in bed.log(work).splitlines())
    assert "libcuda.so.1: cannot open" in bed.log(work)


def test_two_containers_of_50_percent_run_at_once(bed: Bed, full_rate: float, measured: Measured) -> None:
    """Their clocks start together: each waits for its lines, which a service has none of, and goes on at their end."""
    works = [bed.start(name, 0.5, *JOB, "spin", "4") for name in ("one", "other")]
    assert [bed.finish(work) for work in works] == [WorkloadState.SUCCEEDED] * 2, [bed.log(work) for work in works]
    rates = [bed.answers(work)[-1]["blocks_per_second"] / full_rate for work in works]
    measured("two containers of 50 % at once, part of the GPU's rate", [f"{rate:.3f}" for rate in rates])
    assert all(0.425 < rate < 0.575 for rate in rates)


def test_opencl_in_a_container_is_held_by_the_layer(bed: Bed, gpu: Device) -> None:
    pytest.importorskip("pyopencl")
    work = bed.start(
        "opencl",
        0.05,
        "cumulus-run",
        "python",
        "-c",
        OPENCL % (part(gpu, HUGE), part(gpu, FITS)),
        env=(EnvVar(MPS_MODE, "off"),),
    )
    assert bed.finish(work) is WorkloadState.SUCCEEDED, bed.log(work)
    [answer] = bed.answers(work)
    assert answer == {"name": gpu.name, "memory": int(gpu.memory_bytes * 0.05), "huge": -4, "fits": "ok"}


def test_a_container_ends_with_its_lease_and_its_gpu_memory_is_free(bed: Bed, gpu: Device, measured: Measured) -> None:
    work = bed.start("four", 0.5, *JOB, "hold", str(part(gpu, HUGE)), "600", seconds=8.0)
    until(lambda: bool(bed.answers(work)) or bed.state(work).finished, 30)
    assert bed.answers(work) == [{"outcome": "ok"}], bed.log(work)
    assert memory_used(gpu) > part(gpu, HUGE)
    left = next(lease.expires_in for lease in bed.ledger.list())
    took = until(lambda: memory_used(gpu) < GIB, 30)
    measured("a container's quarter of the memory free after its lease's end, s", f"{took - left:.3f}")
    assert took - left < 0.5
    assert bed.finish(work) is WorkloadState.FAILED


@pytest.mark.parametrize("freeze", [False, True])
def test_a_container_is_parked_while_it_computes_and_comes_back(
    bed: Bed, gpu: Device, freeze: bool, measured: Measured
) -> None:
    proof = SelfTest(bed.ledger, gpu).run("cuda")
    assert proof is not None
    assert proof.holds, proof.message
    with bed.ledger.database.write() as tx:
        rows.record_proofs(tx, [proof])
    until(lambda: not bed.ledger.list(), 30)
    before = memory_used(gpu)
    work = bed.start("parked", 0.1, *JOB, "spin", "20", sharing=Sharing.PARKABLE)
    # Not before: a program that is just beginning is not known to the counting library yet, and refused.
    until(lambda: bool(bed.answers(work)) or bed.state(work).finished, 60)
    assert memory_used(gpu) > before, bed.log(work)
    (lease,) = bed.ledger.list()
    assert moved(bed, lambda: bed.ledger.park(lease.id, 600.0, freeze=freeze)) is LeaseState.PARKED
    measured(f"a container was parked, freeze {freeze}, bytes of the GPU beside before", memory_used(gpu) - before)
    assert memory_used(gpu) <= before + DRIVERS_OWN
    assert moved(bed, lambda: bed.ledger.unpark(lease.id, 600.0)) is LeaseState.ACTIVE
    assert bed.finish(work) is WorkloadState.SUCCEEDED, bed.log(work)
    assert bed.answers(work)[-1]["blocks_per_second"] > 0


def moved(bed: Bed, ask: Callable[[], object]) -> LeaseState:
    """How the lease is once it was moved as it was asked to be."""
    ask()
    moving = (LeaseState.PARKING, LeaseState.UNPARKING)
    until(lambda: all(lease.state not in moving for lease in bed.ledger.list()), 120)
    (lease,) = bed.ledger.list()
    assert lease.park_refused is None
    return lease.state
