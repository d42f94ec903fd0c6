"""What follows for a job from its partitions and workloads: a line a case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from cumulus.backends.base import Observed, WorkloadState
from cumulus.clock import timestamp
from cumulus.controllers.job import plan as job_plan
from cumulus.controllers.job.outcome import MOST_IN_A_ROW, WARN_OF_ZEROS, Cause, end_attempt
from cumulus.controllers.job.plan import JobPlan
from cumulus.controllers.job.view import JobView, Replica, StartRefused, Unknown, Vanished
from cumulus.resources import job_partitions
from cumulus.resources.conditions import condition_set
from cumulus.resources.job import Attempt, GPUJob, GPUJobStatus, RetryPolicy
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import condition, is_true
from cumulus.resources.partition import GPUPartition, GPUPartitionStatus, PartitionPhase
from tests.controllers.objects import a_job

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
START = timestamp(NOW - timedelta(seconds=30))
CHECKPOINT = Checkpoint(path="/c", grace_period="30s")


def at(seconds: float) -> str:
    return timestamp(NOW + timedelta(seconds=seconds))


def stored(*, attempt: int = 1, phase: JobPhase = JobPhase.RUNNING, failures: int = 0, **spec: object) -> GPUJob:
    """A job whose attempt has begun, or for attempt 0 none yet."""
    job = a_job(**spec)  # type: ignore[arg-type]
    meta = job.metadata.model_copy(
        update={"uid": "job-uid", "generation": 1, "creation_timestamp": at(-60), "resource_version": "1"}
    )
    job = job.replace(metadata=meta)
    if not attempt:
        return job
    live = Attempt(number=attempt, partitions=job_partitions.partition_names(job, attempt), start_time=START)
    status = GPUJobStatus(attempts=(live,), attempt_count=attempt, phase=phase, failures=failures, start_time=START)
    return job.replace(status=status)


def shares(
    job: GPUJob, phase: PartitionPhase, *, attempt: int = 1, ends_in: float = 3600, why: str = "", node: str = "n"
) -> list[GPUPartition]:
    """The attempt's partitions, all in one phase."""
    conditions = condition_set((), at(-40), "Bound", True, "Bound")
    if why:
        conditions = condition_set(conditions, at(0), "Ended", phase.ended, why, "as said")
    status = GPUPartitionStatus(phase=phase, node=node, device=0, expires_at=at(ends_in), conditions=conditions)
    if phase is PartitionPhase.PENDING:
        status = GPUPartitionStatus()
    if phase is PartitionPhase.BOUND:
        status = status.model_copy(update={"expires_at": None})
    return [partition.replace(status=status) for partition in job_partitions.partitions(job, attempt)]


def seen(
    state: WorkloadState, reason: str = "", code: int | None = None, *, replica: int = 0, end: float = 0
) -> Observed:
    if code is None and state is WorkloadState.SUCCEEDED:
        code = 0
    return Observed(
        name="w", job_uid="job-uid", namespace="default", job="train", attempt=1, replica=replica, node="n",
        state=state, exit_code=code, reason=reason, started_at=START, finished_at=at(end) if state.finished else "",
    )  # fmt: skip


RUNS = seen(WorkloadState.RUNNING)
DONE = seen(WorkloadState.SUCCEEDED)
CRASHED = seen(WorkloadState.FAILED, "Error", 3)
STOPPED = seen(WorkloadState.FAILED, "Stopped", 143)
EXPIRED = seen(WorkloadState.FAILED, "LeaseExpired", 143)
STOPPED_0 = seen(WorkloadState.FAILED, "Stopped", 0)
EXPIRED_0 = seen(WorkloadState.FAILED, "LeaseExpired", 0)
SAVED = seen(WorkloadState.FAILED, "Error", 75)
STOPPED_75 = seen(WorkloadState.FAILED, "Stopped", 75)
EXPIRED_75 = seen(WorkloadState.FAILED, "LeaseExpired", 75)
ZERO_IS_DONE = Checkpoint(path="/c", exit_zero="Succeeded")
ON_EXPIRY_FAIL = Checkpoint(path="/c", on_expiry="Fail")
PENDING, BOUND, ACTIVE, PARKED, UNPARKING, OVER, RELEASED, REFUSED = PartitionPhase


def planned(
    job: GPUJob, partitions: Sequence[GPUPartition], *replicas: Replica, lost: Sequence[str] = (), now: datetime = NOW
) -> JobPlan:
    return told(job, job_plan.plan(JobView(job, partitions, replicas, now, frozenset(lost))))


def told(job: GPUJob, plan: JobPlan) -> JobPlan:
    """Whatever the case: a job that ends has a condition and an event that say so, and why."""
    if plan.status.phase.finished and not job.status.phase.finished:
        end = condition(plan.status.conditions, plan.status.phase.value)
        assert end is not None
        assert (end.status, bool(end.reason), bool(end.message)) == ("True", True, True)
        *before, said = plan.events
        assert {event.reason for event in before} <= {"Started"}
        assert (said.reason, said.message) == (end.reason, end.message)
        assert said.type == ("Normal" if plan.status.phase is JobPhase.SUCCEEDED else "Warning")
        assert plan.status.completion_time
    return plan


def end(plan: JobPlan) -> tuple[str, str, str]:
    """How the plan ends the attempt: phase of the job, reason of the attempt, reason of the Failed condition."""
    failed = condition(plan.status.conditions, "Failed")
    last = plan.status.attempts[-1]
    return plan.status.phase.value, last.reason if last.end_time else "", failed.reason if failed else ""


@pytest.mark.parametrize(
    ("phase", "replica", "then", "starts"),
    [
        pytest.param(PENDING, None, JobPhase.PENDING, (), id="waits for a place"),
        pytest.param(BOUND, None, JobPhase.SCHEDULED, (), id="waits for its lease"),
        pytest.param(ACTIVE, None, JobPhase.SCHEDULED, (0,), id="starts once all leases live"),
        pytest.param(ACTIVE, seen(WorkloadState.STARTING), JobPhase.SCHEDULED, (), id="is starting"),
        pytest.param(ACTIVE, RUNS, JobPhase.RUNNING, (), id="runs when it is seen to run"),
        pytest.param(ACTIVE, Unknown(), JobPhase.SCHEDULED, (), id="is not said to run while nobody knows"),
    ],
)
def test_on_its_way(phase: PartitionPhase, replica: Replica, then: JobPhase, starts: tuple[int, ...]) -> None:
    job = stored(phase=JobPhase.PENDING)
    plan = planned(job, shares(job, phase), replica)
    assert (plan.status.phase, plan.start, dict(plan.stop)) == (then, starts, {})
    assert not plan.create


def test_a_workload_of_which_nothing_is_known_is_looked_at_again_soon() -> None:
    job = stored(replicas=2)
    assert planned(job, shares(job, ACTIVE), RUNS, Unknown()).wake == job_plan.UNKNOWN_POLL
    known = planned(job, shares(job, ACTIVE), RUNS, replace(RUNS, replica=1))
    assert known.wake is not None
    assert known.wake > 3600


def test_what_a_job_that_succeeded_lost_is_told() -> None:
    lost = replace(DONE, message="its log could not be written: No space left on device")
    job = stored()
    ended = planned(job, shares(job, ACTIVE), lost).status
    assert (ended.phase, ended.attempts[-1].message) == ("Succeeded", lost.message)


@pytest.mark.parametrize(
    ("since", "replica", "told"),
    [
        pytest.param("", DONE, ["Started", "Completed"], id="over before it was seen to run"),
        pytest.param(START, DONE, ["Completed"], id="seen to run before"),
        pytest.param("", StartRefused("no"), ["StartRefused"], id="never ran"),
        pytest.param("", replace(CRASHED, reason="StartError"), ["StartError"], id="its container was made in vain"),
    ],
)
def test_whoever_ran_is_said_to_have_started(since: str, replica: Replica, told: list[str]) -> None:
    job = stored()
    (live,) = job.status.attempts
    live = live.model_copy(update={"start_time": since or None})
    job = job.replace(status=job.status.model_copy(update={"attempts": (live,), "phase": JobPhase.SCHEDULED}))
    plan = planned(job, shares(job, ACTIVE), replica)
    assert [event.reason for event in plan.events] == told
    assert plan.events[0].message == "attempt 1 ran on n" or told[0] != "Started"


@pytest.mark.parametrize(
    ("spec", "phase", "replica", "expected"),
    [
        pytest.param({}, ACTIVE, DONE, ("Succeeded", "Completed", ""), id="done"),
        pytest.param({}, RELEASED, DONE, ("Succeeded", "Completed", ""), id="done, its lease given back since"),
        pytest.param({"suspend": True}, ACTIVE, DONE, ("Succeeded", "Completed", ""), id="done before it was held"),
        pytest.param({}, ACTIVE, CRASHED, ("Failed", "Error", "Error"), id="failed, no retries"),
        pytest.param(
            {"retry": RetryPolicy(limit=1)}, ACTIVE, CRASHED, ("Pending", "Error", ""), id="failed, to be tried again"
        ),
        pytest.param({}, ACTIVE, EXPIRED, ("Failed", "LeaseExpired", "LeaseExpired"), id="expired, no checkpoint"),
        pytest.param(
            {"checkpoint": CHECKPOINT}, OVER, EXPIRED, ("Pending", "LeaseExpired", ""), id="expired, with a checkpoint"
        ),
        pytest.param(
            {"checkpoint": Checkpoint(on_expiry="Fail")},
            OVER,
            EXPIRED,
            ("Failed", "LeaseExpired", "LeaseExpired"),
            id="expired, to fail then",
        ),
        pytest.param({}, OVER, STOPPED, ("Failed", "LeaseExpired", "LeaseExpired"), id="its expired lease is why"),
        pytest.param({}, RELEASED, STOPPED, ("Pending", "LeaseReleased", ""), id="its lease was taken from it"),
        pytest.param({"suspend": True}, ACTIVE, STOPPED, ("Pending", "Suspended", ""), id="held"),
        pytest.param({"suspend": True}, PENDING, None, ("Pending", "Suspended", ""), id="held before it ran"),
        pytest.param({}, ACTIVE, STOPPED, ("Pending", "Stopped", ""), id="stopped by others: again, uncounted"),
        pytest.param(
            {}, ACTIVE, StartRefused("no"), ("Failed", "StartRefused", "StartRefused"), id="can never be started"
        ),
        pytest.param({}, ACTIVE, Vanished(), ("Pending", "Lost", ""), id="lost: again, uncounted"),
        pytest.param(
            {"active_deadline": "20s"}, ACTIVE, STOPPED, ("Failed", "Deadline", "DeadlineExceeded"), id="late"
        ),
    ],
)
def test_the_end_of_an_attempt(
    spec: dict[str, object], phase: PartitionPhase, replica: Replica, expected: tuple[str, str, str]
) -> None:
    job = stored(**spec)
    plan = planned(job, shares(job, phase, why="Expired" if phase is OVER else ""), replica)
    assert end(plan) == expected
    assert plan.remove
    assert plan.status.failures == (1 if expected[1] == "Error" else 0)


@pytest.mark.parametrize(
    ("spec", "phase", "replica", "reason"),
    [
        pytest.param({"active_deadline": "20s"}, ACTIVE, STOPPED, "Deadline", id="late"),
        pytest.param({"suspend": True}, ACTIVE, STOPPED, "Suspended", id="held"),
        pytest.param({}, RELEASED, STOPPED, "LeaseReleased", id="released"),
        pytest.param({}, OVER, STOPPED, "LeaseExpired", id="expired"),
        pytest.param({}, OVER, EXPIRED, "LeaseExpired", id="expired, as its node says"),
        pytest.param({}, ACTIVE, STOPPED, "Stopped", id="stopped"),
    ],
)
def test_an_exit_code_is_recorded_whatever_ended_it(
    spec: dict[str, object], phase: PartitionPhase, replica: Replica, reason: str
) -> None:
    job = stored(**spec)
    last = planned(job, shares(job, phase), replica).status.attempts[-1]
    assert (last.reason, last.exit_code) == (reason, 143)


@pytest.mark.parametrize(
    ("spec", "phase", "replica", "expected"),
    [
        pytest.param({}, OVER, EXPIRED_0, ("Succeeded", "Completed", ""), id="expired"),
        pytest.param({}, RELEASED, STOPPED_0, ("Succeeded", "Completed", ""), id="released"),
        pytest.param({"suspend": True}, ACTIVE, STOPPED_0, ("Succeeded", "Completed", ""), id="held"),
        pytest.param({"active_deadline": "20s"}, ACTIVE, STOPPED_0, ("Succeeded", "Completed", ""), id="late"),
        pytest.param({"checkpoint": CHECKPOINT}, OVER, EXPIRED_0, ("Pending", "LeaseExpired", ""), id="it saved"),
        pytest.param({"checkpoint": CHECKPOINT}, ACTIVE, STOPPED_0, ("Pending", "Stopped", ""), id="it saved, stopped"),
        pytest.param(
            {"checkpoint": CHECKPOINT, "suspend": True},
            ACTIVE,
            STOPPED_0,
            ("Pending", "Suspended", ""),
            id="saved, held",
        ),
        pytest.param({"checkpoint": CHECKPOINT}, ACTIVE, DONE, ("Succeeded", "Completed", ""), id="no signal"),
        pytest.param({"checkpoint": ZERO_IS_DONE}, OVER, EXPIRED_0, ("Succeeded", "Completed", ""), id="done, it says"),
        pytest.param(
            {"checkpoint": ON_EXPIRY_FAIL},
            OVER,
            EXPIRED_0,
            ("Failed", "LeaseExpired", "LeaseExpired"),
            id="to fail then",
        ),
    ],
)
def test_exit_code_0_after_the_stop_signal(
    spec: dict[str, object], phase: PartitionPhase, replica: Replica, expected: tuple[str, str, str]
) -> None:
    job = stored(**spec)
    plan = planned(job, shares(job, phase, why="Expired" if phase is OVER else ""), replica)
    assert end(plan) == expected
    assert plan.status.failures == 0


@pytest.mark.parametrize(
    ("spec", "phase", "replica", "expected"),
    [
        pytest.param({"checkpoint": CHECKPOINT}, ACTIVE, SAVED, ("Pending", "Saved", ""), id="by itself"),
        pytest.param({"checkpoint": CHECKPOINT}, OVER, EXPIRED_75, ("Pending", "Saved", ""), id="expired"),
        pytest.param({"checkpoint": CHECKPOINT}, RELEASED, STOPPED_75, ("Pending", "Saved", ""), id="released"),
        pytest.param({"checkpoint": ZERO_IS_DONE}, OVER, EXPIRED_75, ("Pending", "Saved", ""), id="whatever 0 means"),
        pytest.param(
            {"checkpoint": CHECKPOINT, "suspend": True}, ACTIVE, STOPPED_75, ("Pending", "Suspended", ""), id="held"
        ),
        pytest.param(
            {"checkpoint": CHECKPOINT, "active_deadline": "20s"},
            ACTIVE, STOPPED_75, ("Failed", "Deadline", "DeadlineExceeded"), id="late",
        ),
        pytest.param({"checkpoint": ON_EXPIRY_FAIL}, ACTIVE, SAVED, ("Failed", "Error", "Error"), id="to fail then"),
        pytest.param({}, ACTIVE, SAVED, ("Failed", "Error", "Error"), id="no checkpoint"),
    ],
)  # fmt: skip
def test_exit_code_75_means_saved(
    spec: dict[str, object], phase: PartitionPhase, replica: Replica, expected: tuple[str, str, str]
) -> None:
    job = stored(**spec)
    plan = planned(job, shares(job, phase, why="Expired" if phase is OVER else ""), replica)
    assert end(plan) == expected
    assert plan.status.failures == (1 if expected[1] == "Error" else 0)


@pytest.mark.parametrize(
    ("before", "replica", "reason"),
    [
        pytest.param(at(-99), replace(SAVED, checkpoint_at=at(-1)), "Saved", id="a newer checkpoint"),
        pytest.param(None, replace(SAVED, checkpoint_at=at(-1)), "Saved", id="the first checkpoint"),
        pytest.param(at(-99), replace(SAVED, checkpoint_at=at(-99)), "NotSaved", id="the same checkpoint"),
        pytest.param(at(-99), replace(EXPIRED_75, checkpoint_at=at(-99)), "NotSaved", id="the same, in a whole lease"),
        pytest.param(at(-99), replace(SAVED, checkpoint_at=""), "NotSaved", id="it has gone"),
        pytest.param(None, SAVED, "NotSaved", id="nobody can see it"),
        pytest.param(None, EXPIRED_75, "Saved", id="nobody can see it, but a lease was used up"),
    ],
)
def test_exit_code_75_twice_in_a_row(before: str | None, replica: Observed, reason: str) -> None:
    job = stored(attempt=2, checkpoint=CHECKPOINT, retry=RetryPolicy(limit=1))
    first = Attempt(number=1, end_time=at(-90), exit_code=75, reason="Saved", checkpoint_time=before)
    job = job.replace(status=job.status.model_copy(update={"attempts": (first, *job.status.attempts)}))
    plan = planned(job, shares(job, ACTIVE, attempt=2), replace(replica, attempt=2))
    assert end(plan) == ("Pending", reason, "")
    assert plan.status.failures == (1 if reason == "NotSaved" else 0)
    assert plan.status.attempts[-1].checkpoint_time == (replica.checkpoint_at or None)


@pytest.mark.parametrize(("written", "told"), [(at(-1), False), (at(-9999), True), ("", True), (None, False)])
def test_a_lease_in_which_nothing_was_saved_says_so(written: str | None, told: bool) -> None:
    job = stored(checkpoint=CHECKPOINT)
    plan = planned(job, shares(job, OVER), replace(EXPIRED, checkpoint_at=written))
    assert end(plan) == ("Pending", "LeaseExpired", "")
    assert ("saved nothing" in plan.status.attempts[-1].message) is told
    assert any("fit into checkpoint.gracePeriod" in event.message for event in plan.events) is told


def test_a_gang_has_saved_when_one_of_those_that_were_ended_says_so() -> None:
    job = stored(replicas=2, checkpoint=CHECKPOINT)
    killed = seen(WorkloadState.FAILED, "LeaseExpired", 143, replica=0)
    told = seen(WorkloadState.FAILED, "LeaseExpired", 75, replica=1, end=9)
    assert end(planned(job, shares(job, OVER), killed, told)) == ("Pending", "Saved", "")
    crashed = seen(WorkloadState.FAILED, "Error", 9, replica=0)
    stopped = seen(WorkloadState.FAILED, "Stopped", 75, replica=1, end=9)
    assert end(planned(job, shares(job, ACTIVE), crashed, stopped)) == ("Failed", "Error", "Error")


def test_a_gang_is_done_when_all_did_their_work_also_after_the_signal() -> None:
    job = stored(replicas=2)
    assert end(planned(job, shares(job, OVER), DONE, replace(EXPIRED_0, replica=1)))[0] == "Succeeded"
    assert end(planned(job, shares(job, OVER), DONE, replace(EXPIRED, replica=1)))[0] == "Failed"


@pytest.mark.parametrize(
    ("spec", "ends_in", "phase", "grace"),
    [
        pytest.param({"suspend": True}, 3600, JobPhase.RUNNING, 10, id="held: its grace"),
        pytest.param({"suspend": True, "checkpoint": CHECKPOINT}, 3600, JobPhase.CHECKPOINTING, 30, id="checkpoint"),
        pytest.param({"active_deadline": "20s"}, 3600, JobPhase.RUNNING, 10, id="late: its grace"),
        pytest.param({}, -20, JobPhase.RUNNING, 0, id="its node should have ended it by now"),
    ],
)
def test_what_must_not_go_on_is_stopped_and_waited_for(
    spec: dict[str, object], ends_in: float, phase: JobPhase, grace: float
) -> None:
    job = stored(**spec)
    plan = planned(job, shares(job, ACTIVE, ends_in=ends_in), RUNS)
    assert dict(plan.stop) == {0: grace}
    assert plan.status.phase is phase
    assert plan.status.attempts[-1].end_time is None
    assert not plan.remove


def test_what_its_node_is_ending_is_left_its_grace() -> None:
    job = stored(checkpoint=CHECKPOINT)
    plan = planned(job, shares(job, ACTIVE, ends_in=-5, why="Ending"), RUNS)
    assert (plan.status.phase, dict(plan.stop)) == (JobPhase.CHECKPOINTING, {})


def test_a_gang_ends_with_the_first_that_failed() -> None:
    job = stored(replicas=3)
    others = [
        seen(WorkloadState.RUNNING, replica=0),
        seen(WorkloadState.FAILED, "Error", 9, replica=1),
        seen(WorkloadState.RUNNING, replica=2),
    ]
    plan = planned(job, shares(job, ACTIVE), *others)
    assert dict(plan.stop) == {0: 10, 2: 10}
    stopped = [seen(WorkloadState.FAILED, "Stopped", 143, replica=r, end=1) for r in (0, 2)]
    plan = planned(job, shares(job, ACTIVE), stopped[0], others[1], stopped[1])
    assert end(plan) == ("Failed", "Error", "Error")
    last = plan.status.attempts[-1]
    assert (last.exit_code, last.message, last.end_time) == (9, "replica 1", at(1))


def test_a_gang_is_done_when_all_are() -> None:
    job = stored(replicas=2)
    half = planned(job, shares(job, ACTIVE), seen(WorkloadState.SUCCEEDED), seen(WorkloadState.RUNNING, replica=1))
    assert (half.status.phase, half.remove) == (JobPhase.RUNNING, False)
    whole = planned(job, shares(job, ACTIVE), seen(WorkloadState.SUCCEEDED), seen(WorkloadState.SUCCEEDED, replica=1))
    assert end(whole) == ("Succeeded", "Completed", "")


def test_a_gang_starts_only_when_every_lease_lives() -> None:
    job = stored(replicas=2, phase=JobPhase.PENDING)
    mixed = [shares(job, ACTIVE)[0], shares(job, BOUND)[1]]
    assert planned(job, mixed, None, None).start == ()
    assert planned(job, shares(job, ACTIVE), None, None).start == (0, 1)


@pytest.mark.parametrize(
    ("phase", "ends_in", "why", "lost", "expected"),
    [
        pytest.param(REFUSED, 3600, "InsufficientShare", (), "GrantFailed", id="one lease was refused"),
        pytest.param(REFUSED, 3600, "NodeGone", (), "NodeLost", id="its node was removed"),
        pytest.param(BOUND, 3600, "", ("n",), "", id="bound to a silent node: waits"),
        pytest.param(ACTIVE, -65, "", ("n",), "", id="silent, its lease may live by another clock"),
        pytest.param(ACTIVE, -75, "", ("n",), "NodeLost", id="silent, its lease is surely over"),
        pytest.param(ACTIVE, 3600, "", ("n",), "", id="unreachable is not dead"),
    ],
)
def test_trouble_with_nodes(phase: PartitionPhase, ends_in: float, why: str, lost: tuple[str], expected: str) -> None:
    job = stored()
    held = shares(job, phase, ends_in=ends_in, why=why)
    replica = None if phase in (REFUSED, BOUND) else Unknown()
    plan = planned(job, held, replica, lost=lost)
    assert end(plan) == ("Pending" if expected else plan.status.phase.value, expected, "")
    assert plan.status.failures == 0


def test_an_attempt_stuck_on_a_silent_node_gives_way_after_a_minute() -> None:
    job = stored(phase=JobPhase.SCHEDULED)
    waiting = planned(job, shares(job, BOUND), None, lost=["n"])
    assert not waiting.remove
    assert waiting.wake is not None
    later = NOW + timedelta(seconds=waiting.wake + 0.1)
    assert end(planned(job, shares(job, BOUND), None, lost=["n"], now=later))[1] == "NodeUnreachable"


def test_a_partition_deleted_by_hand_ends_the_attempt() -> None:
    job = stored(replicas=2)
    assert dict(planned(job, shares(job, ACTIVE)[:1], RUNS, seen(WorkloadState.RUNNING, replica=1)).stop) == {
        0: 10,
        1: 10,
    }
    assert end(planned(job, shares(job, ACTIVE)[:1], STOPPED, STOPPED))[1] == "LeaseReleased"


def test_the_first_attempt_records_what_it_creates() -> None:
    job = stored(attempt=0, replicas=2, count=2, memory="0.5")
    plan = planned(job, [])
    assert [p.metadata.name for p in plan.create] == [f"train-a1-r{r}-d{d}" for r in (0, 1) for d in (0, 1)]
    (attempt,) = plan.status.attempts
    assert (attempt.number, attempt.partitions, attempt.start_time) == (
        1, tuple(p.metadata.name for p in plan.create), None,
    )  # fmt: skip
    assert plan.status.attempt_count == 1
    gangs = {(p.spec.gang.name, p.spec.gang.size, p.spec.gang.group) for p in plan.create if p.spec.gang}
    assert gangs == {("train-a1", 4, 0), ("train-a1", 4, 1)}
    assert {p.spec.gang.since for p in plan.create if p.spec.gang} == {at(-60)}


def ended(job: GPUJob, reason: str, seconds_ago: float = 0, *, count: int = 1) -> GPUJob:
    attempts = tuple(Attempt(number=n + 1, end_time=at(-seconds_ago), reason=reason) for n in range(count))
    return job.replace(status=job.status.model_copy(update={"attempts": attempts, "attempt_count": count}))


@pytest.mark.parametrize(
    ("last", "resumed", "since"),
    [
        pytest.param(None, None, -60, id="a new job: where it was created"),
        pytest.param({"reason": "LeaseExpired", "start_time": START}, None, 0, id="after its lease: behind all"),
        pytest.param({"reason": "Error", "start_time": START}, None, 0, id="a retry: behind all"),
        pytest.param({"reason": "NodeLost", "start_time": START}, None, -50, id="a lost run: its old place"),
        pytest.param(
            {"reason": "ExpiredBeforeStart"}, None, -50, id="a lease that ended before the start: its old place"
        ),
        pytest.param(None, -20, -20, id="resumed: from then"),
        pytest.param({"reason": "NodeLost", "start_time": START}, -20, -20, id="lost, held and resumed: from then"),
        pytest.param({"reason": "NodeLost", "start_time": START}, -55, -50, id="resumed long ago"),
    ],
)
def test_its_place_in_the_queue(last: dict[str, str] | None, resumed: float | None, since: float) -> None:
    job = stored(attempt=0)
    if last is not None:
        over = Attempt.model_validate({"number": 1, "queue_time": at(-50), "end_time": at(-40), **last})
        job = job.replace(status=job.status.model_copy(update={"attempts": (over,), "attempt_count": 1}))
    if resumed is not None:
        conditions = condition_set((), at(-58), "Suspended", True, "Suspended")
        conditions = condition_set(conditions, at(resumed), "Suspended", False, "Resumed")
        job = job.replace(status=job.status.model_copy(update={"conditions": conditions}))
    plan = planned(
        job,
        [],
        now=NOW
        if last is None or not {"NodeLost", "ExpiredBeforeStart"} & {*last.values()}
        else NOW + timedelta(minutes=9),
    )
    assert plan.status.attempts[-1].queue_time == at(since)
    assert {p.spec.gang.since for p in plan.create if p.spec.gang} == {at(since)}


@pytest.mark.parametrize(
    ("reason", "failures", "ago", "wait"),
    [
        pytest.param("Error", 1, 3, 7, id="the backoff"),
        pytest.param("Error", 3, 3, 37, id="doubled twice"),
        pytest.param("Error", 20, 0, 3600, id="an hour at most"),
        pytest.param("LeaseExpired", 0, 0, None, id="none after a lease"),
        pytest.param("Suspended", 1, 0, None, id="none after a hold"),
        pytest.param("Saved", 0, 0, 1, id="a second after it saved"),
        pytest.param("NotSaved", 1, 0, 10, id="the backoff where it did not"),
        pytest.param("GrantFailed", 0, 0, 1, id="a second after a disruption"),
        pytest.param("ExpiredBeforeStart", 0, 0, 1, id="a second after a lease too short"),
        pytest.param("Error", 1, 11, None, id="over"),
    ],
)
def test_the_wait_before_the_next_attempt(reason: str, failures: int, ago: float, wait: float | None) -> None:
    job = ended(stored(retry=RetryPolicy(limit=99, backoff="10s"), failures=failures), reason, ago)
    plan = planned(job, [])
    if wait is None:
        assert [p.metadata.name for p in plan.create] == ["train-a2-r0-d0"]
        return
    assert not plan.create
    assert plan.wake == pytest.approx(wait)
    scheduled = condition(plan.status.conditions, "Scheduled")
    assert scheduled is not None
    assert scheduled.reason == "BackingOff"


def test_disruptions_in_a_row_wait_longer_and_longer() -> None:
    for reason in ("GrantFailed", "ExpiredBeforeStart"):
        waits = [planned(ended(stored(), reason, count=count), []).wake for count in range(1, 15)]
        assert waits[:4] == [1, 2, 4, 8]
        assert waits[-1] == 300


def test_a_job_that_is_lost_again_and_again_may_be_what_kills_its_node() -> None:
    job = stored(attempt=MOST_IN_A_ROW)
    attempts = tuple(Attempt(number=n, end_time=at(-1), reason="Lost") for n in range(1, MOST_IN_A_ROW))
    job = job.replace(status=job.status.model_copy(update={"attempts": (*attempts, job.status.attempts[-1])}))
    plan = planned(job, shares(job, ACTIVE, attempt=MOST_IN_A_ROW), Vanished())
    assert end(plan) == ("Failed", "Lost", "Lost")


@pytest.mark.parametrize(
    ("phase", "ends_in", "lost", "begins"),
    [
        pytest.param(ACTIVE, 3600, (), False, id="the last lease lives: a workload could still run"),
        pytest.param(BOUND, 3600, (), False, id="it may be granted any moment"),
        pytest.param(BOUND, 3600, ("n",), True, id="no workload starts before all leases live"),
        pytest.param(RELEASED, 3600, (), True, id="given back"),
        pytest.param(OVER, 0, (), True, id="expired"),
        pytest.param(PENDING, 0, (), True, id="never bound"),
        pytest.param(ACTIVE, -65, ("n",), False, id="on a silent node that may still run it"),
        pytest.param(ACTIVE, -75, ("n",), True, id="on a silent node, surely over"),
    ],
)
def test_the_next_attempt_waits_for_the_last_ones_leases(
    phase: PartitionPhase, ends_in: float, lost: tuple[str], begins: bool
) -> None:
    job = ended(stored(), "Suspended")
    old = shares(job, phase, ends_in=ends_in)
    plan = planned(job, old, lost=lost)
    assert bool(plan.create) is begins
    assert [p.metadata.name for p in plan.discard] == (["train-a1-r0-d0"] if begins else [])


def test_twenty_attempts_are_kept_and_all_are_counted() -> None:
    job = ended(stored(), "Suspended", count=30)
    plan = planned(job, [])
    assert len(plan.status.attempts) == 20
    assert plan.status.attempts[-1].number == plan.status.attempt_count == 31


def test_a_held_job_waits_and_says_so() -> None:
    plan = planned(ended(stored(suspend=True), "Suspended"), [])
    assert plan.status.phase is JobPhase.SUSPENDED
    assert is_true(plan.status.conditions, "Suspended")
    assert (plan.create, plan.wake) == ((), None)


def test_no_end_is_silent() -> None:
    """Every way out of every state: `told` looks at each."""
    replicas: list[Replica] = [
        None, Unknown(), Vanished(), StartRefused("no"), RUNS, DONE, STOPPED, STOPPED_0, STOPPED_75, EXPIRED, EXPIRED_0,
        EXPIRED_75, SAVED, CRASHED,
        *(seen(WorkloadState.FAILED, reason) for reason in ("OOMKilled", "StartError", "Lost")),
    ]  # fmt: skip
    specs: list[dict[str, object]] = [
        {}, {"checkpoint": CHECKPOINT}, {"suspend": True}, {"active_deadline": "20s"}, {"retry": RetryPolicy(limit=2)},
    ]  # fmt: skip
    ended_as = set()
    befores = (None, "Lost", "ExpiredBeforeStart")
    for spec, phase, before, started in product(specs, PartitionPhase, befores, (True, False)):
        job = stored(attempt=MOST_IN_A_ROW, **spec)
        earlier = tuple(Attempt(number=n, end_time=at(-99), reason=before) for n in range(1, MOST_IN_A_ROW) if before)
        live = job.status.attempts[-1].model_copy(update={} if started else {"start_time": None})
        job = job.replace(status=job.status.model_copy(update={"attempts": (*earlier, live)}))
        for replica, lost in product(replicas, ((), ("n",))):
            plan = planned(job, shares(job, phase, attempt=MOST_IN_A_ROW, ends_in=-75), replica, lost=lost)
            ended_as.add(end(plan)[::2])
            between = planned(job.replace(status=plan.status), [], now=NOW + timedelta(hours=2))
            ended_as.add(end(between)[::2])
    assert {phase for phase, _ in ended_as} >= {"Succeeded", "Failed", "Pending"}
    assert {reason for _, reason in ended_as} >= {
        "", "Error", "OOMKilled", "StartError", "StartRefused", "LeaseExpired", "DeadlineExceeded", "Lost", "NodeLost",
        "ExpiredBeforeStart",
    }  # fmt: skip


@pytest.mark.parametrize(("before", "phase"), [(MOST_IN_A_ROW - 2, "Pending"), (MOST_IN_A_ROW - 1, "Failed")])
def test_a_lease_that_ends_before_its_program_starts_is_tried_again_so_often(before: int, phase: str) -> None:
    job = stored(attempt=before + 1, phase=JobPhase.SCHEDULED, duration="1ms", checkpoint=CHECKPOINT)
    earlier = tuple(Attempt(number=n, end_time=at(-1), reason="ExpiredBeforeStart") for n in range(1, before + 1))
    live = job.status.attempts[-1].model_copy(update={"start_time": None})
    job = job.replace(status=job.status.model_copy(update={"attempts": (*earlier, live), "start_time": None}))
    never_ran = replace(seen(WorkloadState.FAILED, "LeaseExpired"), started_at="")
    for replica in (None, never_ran):
        plan = planned(job, shares(job, OVER, attempt=before + 1, why="Expired"), replica)
        assert end(plan) == (phase, "ExpiredBeforeStart", "ExpiredBeforeStart" if phase == "Failed" else "")
        assert plan.status.failures == 0
        if phase == "Pending":
            # One event that counts, however often it happens.
            assert [said.message for said in plan.events] == [
                "its lease of 1ms was over before its program could start"
            ]


def test_a_deadline_starts_anew_when_the_job_is_resumed() -> None:
    held = stored(suspend=True, active_deadline="20s")
    stopped = planned(held, shares(held, ACTIVE), STOPPED)
    assert end(stopped) == ("Pending", "Suspended", "")
    suspended = planned(held.replace(status=stopped.status), [])
    assert (suspended.status.phase, suspended.status.start_time) == (JobPhase.SUSPENDED, None)
    resumed = stored(active_deadline="20s").replace(status=suspended.status)
    later = NOW + timedelta(hours=1)
    again = planned(resumed, [], now=later)
    assert (again.status.phase, len(again.create)) == (JobPhase.PENDING, 1)
    runs = replace(RUNS, attempt=2, started_at=timestamp(later))
    running = resumed.replace(status=again.status)
    for seconds, phase in ((0, JobPhase.RUNNING), (19, JobPhase.RUNNING), (21, None)):
        plan = planned(
            running, shares(running, ACTIVE, attempt=2, ends_in=7200), runs, now=later + timedelta(seconds=seconds)
        )
        running = running.replace(status=plan.status)
        assert (dict(plan.stop), phase) == ({} if phase else {0: 10}, phase)


def test_a_deadline_also_ends_the_waiting() -> None:
    job = ended(stored(active_deadline="29s", retry=RetryPolicy(limit=9)), "Error")
    plan = planned(job, [])
    assert (plan.status.phase, plan.create) == (JobPhase.FAILED, ())


@pytest.mark.parametrize("phase", [JobPhase.SUCCEEDED, JobPhase.FAILED])
def test_a_finished_job_stays_so(phase: JobPhase) -> None:
    job = stored(phase=phase, suspend=True)
    plan = planned(job, shares(job, RELEASED), CRASHED)
    assert plan.status.model_copy(update={"observed_generation": 0}) == job.status
    assert (plan.create, plan.start, dict(plan.stop), plan.remove) == ((), (), {}, False)


def test_a_plan_settles() -> None:
    """Planning again on what was written, with the same view, changes nothing more."""
    job = stored(phase=JobPhase.PENDING)
    for phase in (PENDING, BOUND, ACTIVE):
        status = planned(job, shares(job, phase), RUNS).status
        assert planned(job.replace(status=status), shares(job, phase), RUNS).status == status


def test_a_quick_job_went_through_all_conditions() -> None:
    job = stored(phase=JobPhase.PENDING)
    plan = planned(job, shares(job, ACTIVE), DONE)
    assert is_true(plan.status.conditions, "Scheduled")
    assert is_true(plan.status.conditions, "PartitionsReady")
    assert not is_true(plan.status.conditions, "Running")
    assert is_true(plan.status.conditions, "Succeeded")


def test_waiting_copies_why_from_the_partition() -> None:
    job = stored(phase=JobPhase.PENDING)
    (share,) = shares(job, PENDING)
    conditions = condition_set((), at(0), "Bound", False, "NoNodeFits", "TooLarge: n")
    status = share.status.model_copy(update={"conditions": conditions})
    scheduled = condition(planned(job, [share.replace(status=status)], None).status.conditions, "Scheduled")
    assert scheduled is not None
    assert (scheduled.status, scheduled.reason, scheduled.message) == ("False", "NoNodeFits", "TooLarge: n")


@pytest.mark.parametrize(("limit", "words"), [(1, "that was the only retry"), (3, "that was the last of 3 retries")])
def test_the_last_retry_is_counted_in_plain_words(limit: int, words: str) -> None:
    job = stored(retry=RetryPolicy(limit=limit), failures=limit)
    failed = condition(planned(job, shares(job, ACTIVE), CRASHED).status.conditions, "Failed")
    assert failed is not None
    assert failed.message.endswith(words)


@pytest.mark.parametrize("reason", ["NodeLost", "Suspended", "LeaseReleased"])
def test_a_job_whose_input_was_given_has_no_second_attempt(reason: str) -> None:
    job = stored(stdin=True, command=("cat",))
    (live,) = job.status.attempts
    begun = live.model_copy(update={"start_time": START, "end_time": at(0), "reason": reason})
    status, events = end_attempt(job, begun, Cause(reason), NOW)
    failed = condition(status.conditions, "Failed")
    assert events == ()
    assert failed is not None
    assert failed.message.endswith("its input was given to this attempt, and cannot be given again")
    unbegun = begun.model_copy(update={"start_time": None})
    status, _ = end_attempt(job, unbegun, Cause(reason), NOW)
    assert not is_true(status.conditions, "Failed")


def test_a_job_that_exits_with_0_at_the_end_of_each_lease_is_warned_of_once() -> None:
    warned = []
    job = stored(checkpoint=CHECKPOINT)
    (live,) = job.status.attempts
    for number in range(1, 9):
        ended = live.model_copy(update={"number": number, "end_time": at(0), "reason": "LeaseExpired", "exit_code": 0})
        status = job.status.model_copy(update={"attempts": (*job.status.attempts[: number - 1], ended)})
        job = job.replace(status=status)
        status, events = end_attempt(job, ended, Cause("LeaseExpired", exit_code=0), NOW)
        assert (events[0].type, events[0].reason) == ("Normal", "Requeued")
        warned += [(number, event.type, event.reason) for event in events[1:]]
        job = job.replace(status=status)
    assert warned == [(WARN_OF_ZEROS, "Warning", "ExitedZeroAgain")]
