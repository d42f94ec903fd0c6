"""Crash, err and be deposed at every call: what comes out is what comes out without.

A run without faults counts the points: before and after each write, each backend call and each Chronos call. Then the
same world is run again for each point, with something going wrong right there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import pytest

from cumulus.backends.base import Workload
from cumulus.errors import BackendError, NodeUnreachable, NotFound, StoreUnavailable
from cumulus.resources.job import GPUJob, RetryPolicy
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.partition import GPUPartition
from cumulus.testing.backend import Script
from cumulus.testing.faults import Faults, When
from tests.controllers.driver import STEPS, Daemon, World, next_moment, settle
from tests.controllers.faulty import FaultyStore, Oracle
from tests.controllers.objects import a_job, a_partition

STRIDE = 82
"""The suite tries every eighty-second point, each time from another first one by the kind of fault; 1 tries all."""


class Crash(BaseException):
    """The daemon's process is gone: nothing of its memory is left."""


@dataclass
class Points:
    """Counts the points at which something may go wrong, and lets `strike` happen at one of them."""

    at: int = -1
    strike: Callable[[str, str, When], None] = lambda call, subject, when: None
    count: int = 0
    names: list[str] = field(default_factory=list)

    def __call__(self, call: str, subject: str, when: When) -> None:
        self.count += 1
        self.names.append(f"{when} {call} {subject}")
        if self.count - 1 == self.at:
            self.strike(call, subject, when)


def script(workload: Workload) -> Script:
    match workload.job:
        case "fails":
            return Script(seconds=2, exit_code=3 if workload.attempt == 1 else 0)
        case "expires":
            return Script(seconds=math.inf, stop_seconds=2) if workload.attempt == 1 else Script(seconds=2)
        case "deleted" | "suspended":
            return Script(seconds=40, stop_seconds=1)
        case _:
            return Script(seconds=4)


def a_world() -> World:
    world = World(["node-1", "node-2"], devices=2, script=script)
    world.apply(a_job("plain"))
    world.apply(a_job("fails", retry=RetryPolicy(limit=3, backoff="2s")))
    world.apply(a_job("gang", memory="0.6", replicas=2, count=2))
    world.apply(a_job("expires", duration="20s", checkpoint=Checkpoint(path="/c", grace_period="5s")))
    world.apply(a_job("deleted"))
    world.apply(a_job("suspended"))
    world.apply(a_partition("share", memory="0.2", duration="30s"))
    return world


def act(world: World, second: int) -> None:
    """What people do meanwhile."""
    if second == 8:
        world.client.delete(world.job("deleted"))
        world.change_spec("suspended", suspend=True)
    if second == 20:
        world.change_spec("suspended", suspend=False)


def run(points: Points, *, deposed: bool = False) -> World:
    """The whole story, checked after each step, to its end; `points.strike` may raise Crash."""
    world, oracle = a_world(), None
    oracle = Oracle(world)
    faults = Faults(points)
    world.backend.faults.hook = points
    for leases in world.leases.values():
        leases.faults.hook = points
    store = FaultyStore(world.store, faults)
    number = 0
    daemon = Daemon(world, "daemon-0", store=store)  # type: ignore[arg-type]
    daemons = [daemon]
    if deposed:
        points.strike = lambda call, subject, when: _meanwhile(world, daemons)
    start, acted = world.clock.monotonic(), 0
    for _ in range(STEPS):
        world.backend.tell()
        try:
            busy = sum(daemon.step() for daemon in daemons)
        except Crash:
            number += 1
            daemons[:] = [Daemon(world, f"daemon-{number}", store=store)]  # type: ignore[arg-type]
            busy = 1
        oracle.check()
        while acted < int(world.clock.monotonic() - start):
            acted += 1
            act(world, acted)
        if busy:
            continue
        if acted > 30 and at_rest(world):
            return world
        now = world.clock.monotonic()
        assert now - start < 900, f"not at rest: {[(j.key, j.status) for j in world.client.list(GPUJob)]}"
        world.clock.advance(min(1.0, max(0.001, next_moment(world, daemons) - now)))
    raise AssertionError("the loops chase their own tail")


def _meanwhile(world: World, daemons: list[Daemon]) -> None:
    """The daemon is held up here for so long that another one takes over; then it goes on, believing that it leads."""
    other = Daemon(world, "other", seed=1)
    hooks = world.backend.faults.hook
    settle(world, other, seconds=15)
    world.backend.faults.hook = hooks
    daemons.append(other)


def at_rest(world: World) -> bool:
    jobs = world.client.list(GPUJob)
    return (
        all(job.status.phase.finished for job in jobs)
        and all(partition.status.phase.ended for partition in world.client.list(GPUPartition))
        and not any(job.deleting for job in jobs)
        and not world.backend.peek()
    )


def outcome(world: World) -> object:
    """What must not depend on faults."""
    with pytest.raises(NotFound):
        world.job("deleted")
    assert not any(leases.peek() for leases in world.leases.values())
    assert not world.backend.running()
    return {job.metadata.name: (job.status.phase, job.status.failures) for job in world.client.list(GPUJob)}


EXPECTED = {
    "plain": (JobPhase.SUCCEEDED, 0),
    "fails": (JobPhase.SUCCEEDED, 1),
    "gang": (JobPhase.SUCCEEDED, 0),
    "expires": (JobPhase.SUCCEEDED, 0),
    "suspended": (JobPhase.SUCCEEDED, 0),
}


@cache
def total() -> int:
    points = Points()
    assert outcome(run(points)) == EXPECTED
    return points.count


def chosen(first: int) -> Sequence[int]:
    return range(first, total(), STRIDE)


def test_without_faults() -> None:
    assert total() > 200


def test_a_crash_at_any_point() -> None:
    def crash(call: str, subject: str, when: When) -> None:
        raise Crash

    for point in chosen(0):
        points = Points(point, crash)
        assert outcome(run(points)) == EXPECTED, points.names[point]


def test_an_error_at_any_point() -> None:
    errors = {"write": StoreUnavailable("no answer"), "start": BackendError("no answer"), "stop": BackendError("no")}

    def fail(call: str, subject: str, when: When) -> None:
        raise errors.get(call, NodeUnreachable("no answer"))

    for point in chosen(3):
        points = Points(point, fail)
        assert outcome(run(points)) == EXPECTED, points.names[point]


def test_deposed_at_any_point() -> None:
    for point in chosen(6):
        points = Points(point)
        assert outcome(run(points, deposed=True)) == EXPECTED, points.names[point]
