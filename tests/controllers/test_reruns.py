"""A job that is made anew: what is left of the run before is ended first, and its logs are kept for a time."""

from __future__ import annotations

import math
from typing import Any

import pytest

from cumulus.backends.base import Workload
from cumulus.errors import Conflict
from cumulus.resources.job import GPUJob
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.key import Document, Key
from cumulus.resources.partition import GPUPartition
from cumulus.resources.reruns import KEPT_RUNS
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.service.reruns import Reruns
from cumulus.testing.backend import Script
from cumulus.testing.faults import Faults, When
from tests.controllers.driver import Daemon, World, drive, next_moment, settle
from tests.controllers.faulty import FaultyStore
from tests.controllers.objects import a_job
from tests.controllers.test_crashes import Crash, Points

ROOT = Identity("root", 0)
TRAIN = Key("GPUJob", "default", "train")


def script(workload: Workload) -> Script:
    if workload.command[-1] == "long":
        return Script(seconds=math.inf, stop_seconds=2, output=b"long\n")
    return Script(seconds=3, output=b"short\n")


def rerun(world: World, changes: Document | None = None, **more: bool) -> GPUJob:
    access = Access(lambda: world.store, 0)
    reruns = Reruns(world.store, Objects(world.store, world.clock, access), access, world.clock)
    reruns.rerun(ROOT, TRAIN, changes=changes, **more)
    return world.job("train")


def phase(world: World, wanted: JobPhase) -> bool:
    return world.job("train").status.phase is wanted


def started(world: World, *command: str, **spec: object) -> Daemon:
    world.apply(a_job("train", command=command, **spec))  # type: ignore[arg-type]
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: phase(world, JobPhase.RUNNING))
    return daemon


def log(world: World, uid: str) -> bytes:
    return b"".join(world.backend.logs(uid, 1, 0))


def test_what_runs_is_ended_before_the_new_run_begins() -> None:
    world = World(script=script)
    daemon = started(world, "long", memory="1.0", checkpoint=Checkpoint(path="/c", grace_period="5s"))
    first = world.job("train")
    made = rerun(world, {"command": ["short"]})
    assert (made.status.run, made.status.phase, made.uid != first.uid) == (2, JobPhase.PENDING, True)
    (alive,) = world.backend.list(first.uid)
    assert not alive.state.finished
    drive(world, daemon, until=lambda: phase(world, JobPhase.SUCCEEDED))
    job = world.job("train")
    (run,) = job.status.earlier_runs
    assert (run.number, run.uid, run.phase, run.released) == (1, first.uid, "Running", True)
    assert (run.attempts[0].reason, run.attempts[0].exit_code) == ("Replaced", 143)
    assert run.attempts[0].end_time is not None
    assert job.status.attempts[0].start_time is not None
    assert job.status.attempts[0].start_time >= run.attempts[0].end_time
    assert log(world, first.uid) == b"long\n"
    assert world.partitions() == [p for p in world.partitions() if p.is_owned_by(job.uid)]


def test_one_that_is_over_begins_at_once_and_takes_labels_along() -> None:
    world = World(script=script)
    daemon = started(world, "short")
    drive(world, daemon, until=lambda: phase(world, JobPhase.SUCCEEDED))
    store, document = world.store, world.store.get(TRAIN)
    store.update({**document, "metadata": {**document["metadata"], "labels": {"team": "x"}}})
    assert rerun(world).metadata.labels == {"team": "x"}
    drive(world, daemon, until=lambda: phase(world, JobPhase.SUCCEEDED))
    assert world.job("train").status.earlier_runs[0].phase == "Succeeded"


def test_files_go_with_the_ttl_of_their_run_and_all_with_the_job() -> None:
    world = World(script=script)
    daemon = started(world, "short", ttl_after_finished="2m")
    first = world.job("train").uid
    drive(world, daemon, until=lambda: phase(world, JobPhase.SUCCEEDED))
    second = rerun(world, {"command": ["long"], "ttlAfterFinished": None, "gpu": {"duration": "10h"}}).uid
    settle(world, daemon, seconds=90)
    assert not world.job("train").status.earlier_runs[0].purged
    settle(world, daemon, seconds=60)
    assert world.job("train").status.earlier_runs[0].purged
    assert log(world, first) == b""
    third = rerun(world).uid
    settle(world, daemon, seconds=10)
    assert log(world, second) == b"long\n"
    world.client.delete(world.job("train"))
    settle(world, daemon, seconds=60)
    assert world.client.list(GPUJob) == []
    assert world.client.list(GPUPartition) == []
    assert [log(world, uid) for uid in (second, third)] == [b"", b""]


def test_only_so_many_runs_are_kept() -> None:
    world = World(script=script)
    daemon = started(world, "short")
    uids = []
    for _ in range(KEPT_RUNS + 2):
        uids.append(world.job("train").uid)
        rerun(world)
        settle(world, daemon, seconds=10)
    job = world.job("train")
    assert [run.number for run in job.status.earlier_runs] == list(range(3, KEPT_RUNS + 3))
    assert [run.uid for run in job.status.earlier_runs] == uids[2:]
    assert [log(world, uid) for uid in uids[:3]] == [b"", b"", b"short\n"]


def test_it_goes_on_from_the_last_checkpoint_of_a_run_that_started() -> None:
    seen: list[Workload] = []

    def noted(workload: Workload) -> Script:
        seen.append(workload)
        return script(workload)

    world = World(script=noted)
    daemon = started(world, "long", checkpoint=Checkpoint(path="saves", grace_period="5s"))
    first = world.job("train").uid
    rerun(world, from_checkpoint=True)
    rerun(world, {"command": ["long"]}, from_checkpoint=True)
    drive(world, daemon, until=lambda: phase(world, JobPhase.RUNNING))
    assert world.job("train").status.run == 3
    asked = seen[-1].checkpointing
    assert asked is not None
    assert (asked.after, asked.after_path) == (first, "saves")


def test_one_that_is_being_deleted_is_not_made_anew() -> None:
    world = World(script=script)
    started(world, "long")
    world.client.delete(world.job("train"))
    with pytest.raises(Conflict, match="is being deleted"):
        rerun(world)


def test_a_sweep_leaves_the_logs_of_earlier_runs() -> None:
    world = World(script=script)
    daemon = started(world, "short")
    first = world.job("train").uid
    drive(world, daemon, until=lambda: phase(world, JobPhase.SUCCEEDED))
    rerun(world)
    settle(world, daemon, seconds=200)
    assert log(world, first) == b"short\n"


def one_story(points: Points) -> World:
    """A job that runs is made anew, and the daemon dies where the points say."""
    world = World(script=script)
    world.apply(a_job("train", command=("long",), memory="1.0"))
    faults = Faults(points)
    world.backend.faults.hook = points
    for leases in world.leases.values():
        leases.faults.hook = points
    store: Any = FaultyStore(world.store, faults)
    daemon, number, anew, rests = Daemon(world, "daemon-0", store=store), 0, False, 0
    while rests < 60:
        world.backend.tell()
        try:
            busy = daemon.step()
        except Crash:
            number += 1
            daemon, busy = Daemon(world, f"daemon-{number}", store=store), True
        if not anew and phase(world, JobPhase.RUNNING):
            rerun(world, {"command": ["short"]})
            anew = True
        if not busy:
            rests += 1
            world.clock.advance(max(0.001, min(1.0, next_moment(world, [daemon]) - world.clock.monotonic())))
    return world


def test_a_crash_at_any_point_loses_neither_run() -> None:
    counted = Points()
    one_story(counted)

    def strike(call: str, subject: str, when: When) -> None:
        raise Crash

    for at in range(0, counted.count, 5):
        world = one_story(Points(at=at, strike=strike))
        job = world.job("train")
        assert job.status.phase is JobPhase.SUCCEEDED, (at, counted.names[at], job.status)
        (run,) = job.status.earlier_runs
        assert (run.number, run.released, run.purged) == (1, True, False)
        assert (log(world, run.uid), log(world, job.uid)) == (b"long\n", b"short\n")
        assert all(p.is_owned_by(job.uid) for p in world.partitions())
