"""Policing on the real driver: whatever a job does to hold more than it leased, it ends within two seconds. And two
users of the machine on shares of one GPU at once."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cumulus.chronos.contract import Device, EndReason, Lease, LeaseRequest, LeaseState, variables
from cumulus.chronos.contract.policy import PolicyChange
from cumulus.chronos.contract.variables import CUDA_COUNTER, MPS_MODE, PARTITION_ID, PRELOAD
from cumulus.chronos.enforce import environment
from cumulus.chronos.ledger import Ledger
from cumulus.resources.enforcement import Overuse
from cumulus.resources.reasons import NodeCondition
from tests.e2e.conftest import Machine, manifest

from .conftest import FITS, GIB, HUGE, Node, Program, memory_used, part, until
from .daemon import job
from .test_evasion import LIMIT, PIPE, REFUSED, raised
from .test_opencl import do
from .test_several import gpus

__all__ = ["gpus"]

WITHIN_SECONDS = 2.0
USERS = (65533, 65534)

Measured = Callable[[str, object], None]


class Leased(NamedTuple):
    lease: Lease
    variables: dict[str, str]


class Police:
    """Leases in a ledger whose monitor looks at the GPU, and programs that are attached to them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.ledger = Ledger(node.home)
        self.ledger.devices()

    def lease(self, id: str, share: float = 0.05, user: int | None = None, **fields: Overuse) -> Leased:
        gpu, size = self.node.gpu, self.node.part(share)
        request = LeaseRequest(id, gpu.index, size, int(1000 * share), seconds=300, grace=60, **fields)
        lease = self.ledger.grant(request)
        ours = environment(lease, gpu, self.node.home, user)
        return Leased(lease, {**variables.of_lease(lease, gpu), **ours})

    def cuda(self, leased: Leased, *arguments: str | int, **changes: str) -> Program:
        return self.attached(leased, self.node.cuda(*arguments, **{**leased.variables, **changes}))

    def attached(self, leased: Leased, program: Program) -> Program:
        self.ledger.attach(leased.lease.id, program.process.pid, leased.lease.token)
        return program

    def state(self, leased: Leased) -> tuple[LeaseState, EndReason | None]:
        found = self.ledger.get(leased.lease.id)
        assert found is not None
        return found.state, found.end_reason

    def seconds_to_the_end(self, *programs: Program) -> float:
        """From now, when they hold too much, until they are all gone."""
        began = time.monotonic()
        for program in programs:
            assert program.process.wait(10) == -signal.SIGKILL
        return time.monotonic() - began


@pytest.fixture
def police(node: Node) -> Iterator[Police]:
    made = Police(node)
    yield made
    for lease in made.ledger.list():
        made.ledger.release(lease.id)
    until(lambda: not made.ledger.list(), 20)


EVASIONS: dict[str, Callable[[Node], dict[str, str]]] = {
    "leave MPS": lambda node: {PIPE: "/nonexistent", PRELOAD: ""},
    "raise the limit": lambda node: {LIMIT: raised(node), PRELOAD: ""},
    "unset the counter and MPS": lambda node: {PRELOAD: "", PIPE: "", LIMIT: ""},
    "forge the environment": lambda node: {PRELOAD: "", PIPE: "/nonexistent", PARTITION_ID: "neighbour"},
}


@pytest.mark.parametrize("name", EVASIONS)
def test_evasions_end_within_two_seconds(police: Police, name: str, measured: Measured) -> None:
    neighbour = police.lease("neighbour")
    quiet = police.cuda(neighbour, "alloc", "device", police.node.part(FITS))
    assert quiet.line()["outcome"] == "ok"
    leased = police.lease("greedy")
    free = memory_used(police.node.gpu)
    program = police.cuda(leased, "alloc", "device", police.node.part(HUGE), **EVASIONS[name](police.node))
    assert program.line()["outcome"] == "ok"
    took = police.seconds_to_the_end(program)
    measured(f"{name}: ended after", f"{took:.2f} s")
    assert took < WITHIN_SECONDS
    until(lambda: police.state(leased) == (LeaseState.ENDED, EndReason.OVERUSED))
    assert police.state(neighbour)[0] is LeaseState.ACTIVE
    assert quiet.alive()
    measured(f"{name}: its memory was free after", f"{until(lambda: memory_used(police.node.gpu) <= free + GIB):.2f} s")


def test_a_second_process_that_is_not_counted_ends_both(police: Police, measured: Measured) -> None:
    leased = police.lease("greedy")
    most = police.node.part(0.0375)
    first, second = (police.cuda(leased, "alloc", "device", most, **{PRELOAD: ""}) for _ in "12")
    assert [program.line()["outcome"] for program in (first, second)] == ["ok", "ok"]
    took = police.seconds_to_the_end(first, second)
    measured("second process: ended after", f"{took:.2f} s")
    assert took < WITHIN_SECONDS


def test_unsetting_the_opencl_layer_ends_it(police: Police, nvidia_opencl: dict[str, str], measured: Measured) -> None:
    leased = police.lease("greedy")
    program = police.node.opencl(**{**leased.variables, **nvidia_opencl, "OPENCL_LAYERS": ""})
    police.attached(leased, program)
    assert program.line()["error"] == 0
    buffer = do(program, "buffer", size=police.node.part(0.22))
    assert (buffer["error"], do(program, "fill", id=buffer["id"])["error"]) == (0, 0)
    took = police.seconds_to_the_end(program)
    measured("unset the OpenCL layer: ended after", f"{took:.2f} s")
    assert took < WITHIN_SECONDS


def test_a_job_within_its_lease_is_left_alone_and_report_only_tells(police: Police) -> None:
    within = police.lease("within")
    program = police.cuda(within, "alloc", "device", police.node.part(0.047))
    assert program.line()["outcome"] == "ok"
    police.ledger.set_policy(PolicyChange(overuse=Overuse.REPORT))
    told = police.lease("told", overuse=Overuse.REPORT)
    over = police.cuda(told, "alloc", "device", police.node.part(HUGE), **{PRELOAD: "", PIPE: "/nonexistent"})
    assert over.line()["outcome"] == "ok"
    until(lambda: bool((found := police.ledger.get("told")) and found.held_bytes))
    assert over.alive()
    assert program.alive()
    until(lambda: (NodeCondition.POLICED, "ByProcess") in {(each.type, each.reason) for each in police.ledger.health()})


def test_how_the_gpu_is_and_who_has_no_lease_are_told(police: Police, measured: Measured) -> None:
    police.lease("someones")
    stray = police.node.cuda("alloc", "device", 2 * GIB)
    assert stray.line()["outcome"] == "ok"
    until(lambda: any(process.pid == stray.process.pid for process in police.ledger.watched().unleased), 30)
    figures = police.ledger.watched().figures[police.node.gpu.id]
    assert figures.fault == ""
    assert figures.temperature
    measured("figures", figures)
    (process,) = police.ledger.watched().unleased
    assert process.memory_bytes >= 2 * GIB
    assert stray.alive()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts programs of several users")
@pytest.mark.parametrize("mode", ["shared", "off"])
def test_two_users_on_shares_of_one_gpu_at_once(
    node: Node, mode: str, monkeypatch: pytest.MonkeyPatch, measured: Measured
) -> None:
    monkeypatch.setenv(MPS_MODE, mode)
    # Other users reach it, and the library, by the whole of their paths.
    place = Path(tempfile.mkdtemp(prefix="two-users-"))
    place.chmod(0o711)
    counter = place / "counter.so"
    shutil.copy(os.environ[CUDA_COUNTER], counter)
    counter.chmod(0o755)
    monkeypatch.setenv(CUDA_COUNTER, str(counter))
    node.home = place / "home"
    node.home.mkdir(mode=0o711)
    police = Police(node)
    leases = [police.lease(f"of-{uid}", 0.2, uid) for uid in USERS]
    programs = [
        police.cuda(leased, "alloc", "device", node.part(0.15), JOB_UID=str(uid))
        for uid, leased in zip(USERS, leases, strict=True)
    ]
    for leased, program in zip(leases, programs, strict=True):
        answer = program.line()
        assert (answer["outcome"], answer["total"]) == ("ok", leased.lease.memory_bytes)
        # What the other one holds is not taken from it.
        assert answer["free"] > leased.lease.memory_bytes // 10
    for uid, leased in zip(USERS, leases, strict=True):
        assert node.outcome("device", node.part(0.1), JOB_UID=str(uid), **leased.variables) == REFUSED
    assert all(program.alive() for program in programs)
    assert all(police.state(leased)[0] is LeaseState.ACTIVE for leased in leases)
    measured(f"two users at once, MPS {mode}", [os.stat(f"/proc/{p.process.pid}").st_uid for p in programs])
    for leased in leases:
        police.ledger.release(leased.lease.id)
    until(lambda: not police.ledger.list(), 20)
    node.close()
    shutil.rmtree(place, ignore_errors=True)


def test_a_gpu_that_was_not_leased_counts(police: Police, gpus: list[Device], measured: Measured) -> None:
    leased = police.lease("astray")
    program = police.cuda(
        leased, "alloc", "device", part(gpus[1], HUGE), CUDA_VISIBLE_DEVICES=gpus[1].id, **{PRELOAD: "", PIPE: ""}
    )
    assert program.line()["outcome"] == "ok"
    took = police.seconds_to_the_end(program)
    measured("a GPU that was not leased: ended after", f"{took:.2f} s")
    assert took < WITHIN_SECONDS


def test_the_daemons_job_that_undoes_its_limits_ends_and_says_why(
    machine: Machine, gpu: Device, measured: Measured
) -> None:
    script = f"unset {PRELOAD}; export {PIPE}=/nonexistent; {job('hold', part(gpu, HUGE), 600)}"
    machine.apply(manifest("greedy", script, memory="5%", duration="300s"))
    until(lambda: memory_used(gpu) > part(gpu, HUGE), 60)
    took = until(lambda: memory_used(gpu) < part(gpu, HUGE), 10)
    measured("the daemon's job: its memory was free after", f"{took:.2f} s")
    assert took < WITHIN_SECONDS
    machine.ok("wait", "job", "greedy", "--for=condition=Failed", "--timeout=30s")
    status = machine.get("job", "greedy")["status"]
    assert status["attempts"][-1]["reason"] == "Overused"
    [share] = machine.items("gpupartitions")
    until(lambda: machine.items("gpupartitions")[0]["status"]["phase"] == "Failed", 20)
    assert share["spec"]["memory"] == "5%"
