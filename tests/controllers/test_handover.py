"""The attempt that is queued before the lease of the one that runs has ended: a line a case, and the whole in time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from cumulus.backends.base import Observed, Workload, WorkloadState
from cumulus.backends.checkpoints import SealedCheckpoint
from cumulus.clock import parse_timestamp
from cumulus.controllers.job import plan as job_plan
from cumulus.controllers.job.plan import JobPlan
from cumulus.controllers.job.view import JobView, Replica, Unknown
from cumulus.controllers.partition import plan as partition_plan
from cumulus.resources import job_partitions
from cumulus.resources.job import Attempt, GPUJob
from cumulus.resources.job_checkpoint import Checkpoint, SavedCheckpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.testing.backend import Script
from tests.controllers.driver import Daemon, World, drive, settle
from tests.controllers.objects import a_job
from tests.controllers.test_job_plan import EXPIRED, NOW, RUNS, SAVED, START, STOPPED_75, at, shares, stored

CHECKPOINT = Checkpoint(path="/c", grace_period="10s")
LOST = Observed(
    name="w", job_uid="job-uid", namespace="default", job="train", attempt=1, replica=0, node="n",
    state=WorkloadState.FAILED, reason="Lost", started_at=START, finished_at=at(0),
)  # fmt: skip


def running(left: float, *, ahead: bool = False, **spec: object) -> tuple[GPUJob, list[GPUPartition]]:
    """A job whose lease ends in so many seconds, and its partitions; with the next attempt queued `ahead`."""
    job = stored(**{"checkpoint": CHECKPOINT, **spec})
    held = [
        p.replace(status=p.status.model_copy(update={"started_at": START}))
        for p in shares(job, PartitionPhase.ACTIVE, ends_in=left)
    ]
    if not ahead:
        return job, held
    names = job_partitions.partition_names(job, 2)
    following = Attempt(number=2, partitions=names, queue_time=at(-5))
    job = job.replace(status=job.status.model_copy(update={"next": following}))
    return job, [*held, *shares(job, PartitionPhase.PENDING, attempt=2)]


def planned(job: GPUJob, held: list[GPUPartition], *replicas: Replica) -> JobPlan:
    return job_plan.plan(JobView(job, held, list(replicas), NOW))


def names(partitions: tuple[GPUPartition, ...]) -> list[str]:
    return [p.metadata.name for p in partitions]


@pytest.mark.parametrize(
    ("left", "spec", "queued"),
    [
        pytest.param(11, {}, True, id="the grace and the time of a grant are left"),
        pytest.param(13, {}, False, id="not sooner"),
        pytest.param(-3, {}, True, id="late is better than never"),
        pytest.param(5, {"checkpoint": None}, False, id="a job without a checkpoint does not go on"),
        pytest.param(5, {"checkpoint": Checkpoint(on_expiry="Fail")}, False, id="nor one that is to fail"),
        pytest.param(5, {"active_deadline": "33s"}, False, id="nor one that is over by then"),
        pytest.param(5, {"active_deadline": "40s"}, True, id="but one that has some time after it"),
        pytest.param(40, {"checkpoint": Checkpoint(grace_period="5m")}, False, id="a long grace has a limit"),
    ],
)
def test_the_next_attempt_is_queued_shortly_before_the_lease_ends(left: float, spec: dict, queued: bool) -> None:
    plan = planned(*running(left, **spec), RUNS)
    assert (plan.status.next is not None) is queued
    assert bool(plan.create) is queued
    assert plan.status.attempt_count == 1
    if queued:
        assert names(plan.create) == ["train-a2-r0-d0"]
        assert plan.create[0].spec.gang is not None
        assert plan.create[0].spec.gang.since == plan.status.next.queue_time == at(0)  # type: ignore[union-attr]
    elif left > 0 and spec == {}:
        assert plan.wake == 1.0


def test_a_measured_save_decides_how_early() -> None:
    job, held = running(8)
    saved = SavedCheckpoint(step=3, time=at(-60), seconds=2.0)
    job = job.replace(status=job.status.model_copy(update={"checkpoint": saved}))
    plan = planned(job, held, RUNS)
    assert (plan.status.next, plan.wake) == (None, 2.0)


def test_it_is_not_queued_while_nobody_knows_when_the_lease_ends() -> None:
    job, held = running(5)
    unknown = [p.replace(status=p.status.model_copy(update={"started_at": None})) for p in held]
    assert planned(job, unknown, RUNS).status.next is None


@pytest.mark.parametrize("end", [EXPIRED, SAVED, STOPPED_75], ids=["expired", "saved", "told to stop"])
def test_it_begins_in_the_write_that_ends_the_last(end: Observed) -> None:
    job, partitions = running(-1, ahead=True)
    plan = planned(job, partitions, end)
    assert [a.number for a in plan.status.attempts] == [1, 2]
    assert plan.status.attempts[0].end_time is not None
    assert plan.status.live_attempt is not None
    assert (plan.status.attempt_count, plan.status.next, plan.create) == (2, None, ())
    assert names(plan.discard) == ["train-a1-r0-d0"]
    assert plan.remove


@pytest.mark.parametrize("replica", [RUNS, Unknown()], ids=["runs", "its node is silent"])
def test_it_does_not_begin_while_the_last_may_run(replica: Replica) -> None:
    job, partitions = running(-60, ahead=True)
    plan = planned(job, partitions, replica)
    assert plan.status.live_attempt is not None
    assert plan.status.live_attempt.number == 1
    assert not plan.start


def test_of_a_gang_with_a_lost_replica_the_leases_have_to_be_over_first() -> None:
    job, partitions = running(-1, ahead=True, replicas=2)
    plan = planned(job, partitions, EXPIRED, replace(LOST, replica=1))
    assert (plan.status.live_attempt, plan.status.attempt_count, plan.discard) == (None, 1, ())
    assert plan.status.next is not None
    after = job.replace(status=plan.status)
    waits = job_plan.plan(JobView(after, partitions, [], NOW))
    assert (waits.status.live_attempt, waits.status.next) == (None, plan.status.next)
    phase = {"phase": PartitionPhase.EXPIRED}
    over = [p.replace(status=p.status.model_copy(update=phase)) for p in partitions if "-a1-" in p.metadata.name]
    over += [p for p in partitions if "-a2-" in p.metadata.name]
    begins = job_plan.plan(JobView(after, over, [], NOW))
    assert begins.status.live_attempt is not None
    assert (begins.status.live_attempt.number, begins.create) == (2, ())
    assert names(begins.discard) == ["train-a1-r0-d0", "train-a1-r1-d0"]


@pytest.mark.parametrize(
    ("replica", "spec"),
    [
        pytest.param(replace(RUNS, state=WorkloadState.SUCCEEDED, exit_code=0), {}, id="the job is done"),
        pytest.param(replace(RUNS, state=WorkloadState.FAILED, reason="Error", exit_code=3), {}, id="it failed"),
        pytest.param(STOPPED_75, {"suspend": True}, id="it was suspended"),
        pytest.param(RUNS, {"suspend": True}, id="it is being suspended"),
        pytest.param(LOST, {}, id="its node went away"),
    ],
)
def test_one_that_is_not_needed_gives_its_shares_up(replica: Observed, spec: dict) -> None:
    job, partitions = running(5, ahead=True, **spec)
    plan = planned(job, partitions, replica)
    assert plan.status.next is None
    assert "train-a2-r0-d0" in names(plan.discard)


def test_its_shares_keep_the_priority_of_the_job() -> None:
    job, partitions = running(5, ahead=True, priority=7)
    low = [p.replace(spec=p.spec.model_copy(update={"priority": 0})) for p in partitions]
    assert names(planned(job, low, RUNS).update) == ["train-a2-r0-d0"]


def test_a_name_that_is_not_free_yet_is_not_waited_for() -> None:
    job, partitions = running(5, ahead=True)
    ended = job.status.attempts[0].model_copy(update={"end_time": at(-60), "reason": "Error"})
    meta = partitions[1].metadata.model_copy(update={"deletion_timestamp": at(-1)})
    status = job.status.model_copy(update={"attempts": (ended,), "next": None})
    over = partitions[0].replace(status=partitions[0].status.model_copy(update={"phase": PartitionPhase.RELEASED}))
    retried = job.replace(status=status, spec=job.spec.model_copy(update={"suspend": False}))
    plan = job_plan.plan(JobView(retried, [over, partitions[1].replace(metadata=meta)], [], NOW))
    assert names(plan.create) == ["train-a2-r0-d0-jobuid"]
    assert plan.status.attempts[-1].partitions == ("train-a2-r0-d0-jobuid",)


def test_the_lease_of_a_deleted_partition_waits_for_the_checkpoint() -> None:
    job, (share,) = running(600)
    meta = share.metadata.model_copy(update={"deletion_timestamp": at(-4)})
    share = share.replace(metadata=meta)
    assert partition_plan.saving_left(share, job, NOW) == 6
    assert not partition_plan.releasing(share, job, NOW)
    assert partition_plan.releasing(share, job, NOW + timedelta(seconds=6))
    bare = job.replace(spec=job.spec.model_copy(update={"checkpoint": None}))
    assert partition_plan.releasing(share, bare, NOW)
    ended = job.status.attempts[0].model_copy(update={"end_time": at(0)})
    over = job.replace(status=job.status.model_copy(update={"attempts": (ended,)}))
    assert partition_plan.releasing(share, over, NOW)


def test_what_was_saved_is_in_the_status_and_told_once() -> None:
    job, held = running(600)
    found = SealedCheckpoint(12, at(-5), 2048, 1.5, "/c/step-000000000012")
    plan = planned(job, held, replace(RUNS, checkpoint=found))
    saved = plan.status.checkpoint
    assert saved is not None
    assert (saved.step, saved.time, saved.size, saved.seconds, saved.node) == (12, at(-5), 2048, 1.5, "n")
    assert [e.reason for e in plan.events] == ["CheckpointSaved"]
    again = planned(job.replace(status=plan.status), held, replace(RUNS, checkpoint=found))
    assert (again.status.checkpoint, again.events) == (saved, ())
    later = found._replace(step=13, time=at(-1))
    next_one = planned(job.replace(status=plan.status), held, replace(RUNS, checkpoint=later))
    assert next_one.status.checkpoint is not None
    assert (next_one.status.checkpoint.step, next_one.events) == (13, ())
    # What does not get beyond the node is told once.
    stuck = later._replace(step=14, time=at(0), upload_error="the keys have expired (renew them)")
    told = planned(job.replace(status=next_one.status), held, replace(RUNS, checkpoint=stuck))
    assert [(e.type, e.reason) for e in told.events] == [("Warning", "CheckpointNotCopied")]
    assert "step 14 is not at" in told.events[0].message
    assert "the keys have expired (renew them); it is tried again" in told.events[0].message
    more = stuck._replace(step=15, time=at(1))
    assert planned(job.replace(status=told.status), held, replace(RUNS, checkpoint=more)).events == ()
    # What an older attempt left does not become the newest.
    older = planned(job.replace(status=next_one.status), held, replace(RUNS, checkpoint=found))
    assert older.status.checkpoint == next_one.status.checkpoint


def script(workload: Workload) -> Script:
    """Saves at the end of its lease, and is done in its third one."""
    return Script(seconds=float("inf") if workload.attempt < 3 else 1.0, stop_seconds=0.5, stop_code=75)


def test_the_gap_is_short_where_a_share_is_free_and_nothing_is_left() -> None:
    world = World(devices=2, script=script)
    daemon = Daemon(world)
    checkpoint = Checkpoint(path="/c", grace_period="5s")
    world.apply(a_job(memory="1.0", duration="60s", checkpoint=checkpoint))
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.SUCCEEDED)
    attempts = world.job("train").status.attempts
    assert [a.reason for a in attempts] == ["Saved", "Saved", "Completed"]
    for before, after in pairwise(attempts):
        assert before.end_time is not None
        assert after.start_time is not None
        assert after.queue_time is not None
        assert after.queue_time < before.end_time
        assert (parse_timestamp(after.start_time) - parse_timestamp(before.end_time)).total_seconds() < 0.1
    settle(world, daemon, seconds=120)
    assert [p for p in world.partitions() if not p.status.phase.ended] == []
    assert world.leases["node-1"].peek() == []


def test_who_waits_already_goes_first() -> None:
    world = World(script=script)
    daemon = Daemon(world)
    checkpoint = Checkpoint(path="/c", grace_period="5s")
    world.apply(a_job(memory="1.0", duration="60s", checkpoint=checkpoint))
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.RUNNING)
    world.apply(a_job("other", memory="1.0", duration="30s"))
    drive(world, daemon, until=lambda: world.job("other").status.phase is JobPhase.RUNNING)
    train = world.job("train").status
    assert (train.phase, train.attempt_count) == (JobPhase.PENDING, 2)
    world.client.delete(world.job("other"))
    drive(world, daemon, until=lambda: world.job("train").status.phase is JobPhase.RUNNING)
