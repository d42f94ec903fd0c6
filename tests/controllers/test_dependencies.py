"""Jobs that wait for others: `spec.after`."""

from __future__ import annotations

import random
from typing import Any

import pytest

from cumulus.backends.base import Workload
from cumulus.resources.event import Event
from cumulus.resources.job import GPUJob
from cumulus.resources.job_after import After, Dependency, DependencyState, broken_words, progress, waiting_words
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import condition
from cumulus.resources.reasons import JobReason
from cumulus.testing.backend import Script
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.objects import a_job

S = DependencyState


def script(workload: Workload) -> Script:
    """Jobs whose name begins with bad fail; all take ten seconds."""
    return Script(exit_code=1 if workload.job.startswith("bad") else 0, seconds=10)


def a_world() -> World:
    return World(script=script, devices=4)


def after(name: str = "train", **lists: Any) -> GPUJob:
    return a_job(name, after=After(**lists), memory="0.1")


def why(job: GPUJob) -> tuple[str, str]:
    found = condition(job.status.conditions, "Failed" if job.status.phase is JobPhase.FAILED else "Scheduled")
    assert found is not None
    return found.reason, found.message


@pytest.mark.parametrize(
    ("wants", "before", "phase", "state"),
    [
        ("succeeded", None, None, S.MISSING), ("succeeded", S.MISSING, None, S.MISSING),
        ("succeeded", None, "Pending", S.UNFINISHED), ("succeeded", S.UNFINISHED, "Running", S.UNFINISHED),
        ("succeeded", S.UNFINISHED, "Succeeded", S.MET), ("succeeded", S.UNFINISHED, "Failed", S.UNMET),
        ("failed", None, "Failed", S.MET), ("failed", S.UNFINISHED, "Succeeded", S.UNMET),
        ("finished", S.UNFINISHED, "Failed", S.MET), ("finished", S.UNFINISHED, "Succeeded", S.MET),
        ("finished", S.UNFINISHED, None, S.DELETED), ("succeeded", S.DELETED, None, S.DELETED),
        ("succeeded", S.MET, None, S.MET), ("succeeded", S.MET, "Failed", S.MET),
        ("succeeded", S.UNMET, "Pending", S.UNFINISHED), ("succeeded", S.DELETED, "Pending", S.UNFINISHED),
    ],
)  # fmt: skip
def test_how_far_a_job_is(wants: str, before: S | None, phase: str | None, state: S) -> None:
    asked = After(**{wants: ("a",)})
    known = () if before is None else (Dependency(name="a", wants=wants.capitalize(), state=before),)
    (found,) = progress(asked, known, {} if phase is None else {"a": phase})
    assert found.state is state
    assert bool(broken_words([found])) == (state in (S.UNMET, S.DELETED))
    assert bool(waiting_words([found])) == (state is not S.MET)


def test_it_takes_no_share_before_its_time_and_then_joins_the_queue() -> None:
    world = a_world()
    world.apply(after(succeeded=("prepare",), finished=("bad-check",)))
    daemon = Daemon(world)
    settle(world, daemon, seconds=30)
    assert why(world.job("train")) == (
        JobReason.DEPENDENCY,
        "it waits for prepare to succeed (there is no such job yet), for bad-check to end (there is no such job yet)",
    )
    assert not world.partitions()
    world.apply(a_job("prepare"))
    settle(world, daemon, seconds=5)
    assert [each.state for each in world.job("train").status.after or ()] == [S.UNFINISHED, S.MISSING]
    world.apply(a_job("bad-check"))
    settle(world, daemon, seconds=2)
    started = world.clock.now()
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.SUCCEEDED, within=60)
    first = world.job("train").status.attempts[0]
    assert first.queue_time is not None
    assert first.queue_time > (world.job("train").metadata.creation_timestamp or "")
    assert (world.clock.now() - started).total_seconds() < 30
    assert world.job("bad-check").status.phase is JobPhase.FAILED


@pytest.mark.parametrize(
    ("other", "lists", "said"),
    [
        ("bad", {"succeeded": ("bad",)}, "bad failed, and had to succeed"),
        ("good", {"failed": ("good",)}, "good succeeded, and had to fail"),
    ],
)
def test_it_fails_where_it_can_never_start(other: str, lists: dict[str, Any], said: str) -> None:
    world = a_world()
    world.apply(a_job(other))
    world.apply(after(**lists))
    world.apply(after("last", finished=("train",)))
    daemon = Daemon(world)
    drive(world, daemon, until=lambda: world.job("last").status.phase is JobPhase.SUCCEEDED, within=120)
    train = world.job("train")
    assert (train.status.phase, train.status.attempt_count) == (JobPhase.FAILED, 0)
    assert why(train) == (JobReason.DEPENDENCY_NEVER_SATISFIED, said)
    told = [e for e in world.client.list(Event) if e.involved_object.name == "train"]
    assert [e.reason for e in told] == [JobReason.DEPENDENCY_NEVER_SATISFIED]


def test_a_job_that_is_deleted_takes_with_it_who_waits_for_its_success() -> None:
    world = a_world()
    world.apply(a_job("prepare", suspend=True))
    world.apply(after(finished=("prepare",)))
    daemon = Daemon(world)
    settle(world, daemon, seconds=5)
    world.client.delete(world.job("prepare"))
    settle(world, daemon, seconds=5)
    assert why(world.job("train"))[1] == "prepare was deleted before it was seen to end"


def test_what_was_met_stays_met_when_the_other_job_goes() -> None:
    world = a_world()
    world.apply(a_job("first", ttl_after_finished="0s"))
    world.apply(a_job("second", suspend=True))
    world.apply(after(succeeded=("first", "second")))
    world.apply(after("held", succeeded=("first",)))
    world.change_spec("held", suspend=True)
    daemon = Daemon(world)
    settle(world, daemon, seconds=60)
    assert [job.metadata.name for job in world.client.list(GPUJob)] == ["held", "second", "train"]
    assert [each.state for each in world.job("train").status.after or ()] == [S.MET, S.UNFINISHED]
    assert [each.state for each in world.job("held").status.after or ()] == [S.MET]
    world.change_spec("second", suspend=False)
    world.change_spec("held", suspend=False)
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.SUCCEEDED, within=60)
    drive(world, daemon, until=lambda: world.job("held").status.phase is JobPhase.SUCCEEDED, within=60)


def test_a_daemon_that_dies_at_every_step_starts_it_once() -> None:
    world = a_world()
    world.apply(after("c", succeeded=("b",)))
    world.apply(after("b", succeeded=("a",)))
    world.apply(a_job("a", ttl_after_finished="0s"))
    rng = random.Random(7)
    for number in range(400):
        daemon = Daemon(world, "d", seed=number)
        for _ in range(rng.randrange(10, 60)):
            world.backend.tell()
            if not daemon.step():
                world.clock.advance(1)
        if world.job("c").status.phase is JobPhase.SUCCEEDED:
            break
    assert [world.job(name).status.attempt_count for name in ("b", "c")] == [1, 1]
