"""What follows for a partition from its node's answer: a line a case."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cumulus.chronos.contract import EndReason, Lease, LeaseState
from cumulus.clock import timestamp
from cumulus.controllers.partition import plan as partition_plan
from cumulus.controllers.partition.plan import ENDING_POLL, Answer, GrantRefused, NodeGone, Unreachable
from cumulus.controllers.partition_facts import latest_end, over_by_time
from cumulus.resources.job import Attempt, GPUJobStatus
from cumulus.resources.meta import ATTEMPT_LABEL, ObjectMeta, condition
from cumulus.resources.parking import Parked, ParkRequest
from cumulus.resources.partition import FINALIZER, Gang, GPUPartition, GPUPartitionStatus, PartitionPhase, Renewal
from tests.controllers.objects import a_job, a_partition

NOW = datetime(2030, 1, 1, tzinfo=UTC)
PENDING, BOUND, ACTIVE, PARKED, UNPARKING, EXPIRED, RELEASED, FAILED = PartitionPhase

LIVES = Lease(
    id="uid-1", device=0, device_id="d", memory_bytes=8, compute=500, user="", grace=10, token=3,
    state=LeaseState.ACTIVE, granted_at=timestamp(NOW), expires_at=timestamp(NOW + timedelta(hours=1)),
    expires_in=3600,
)  # fmt: skip
ENDING = replace(LIVES, state=LeaseState.ENDING, end_reason=EndReason.EXPIRED, expires_in=-1)
OVER = replace(ENDING, state=LeaseState.ENDED)
GIVEN_BACK = replace(OVER, end_reason=EndReason.RELEASED)


def stored(phase: PartitionPhase, *, deleting: bool = False, **spec: object) -> GPUPartition:
    status = GPUPartitionStatus(phase=phase)
    if phase is not PENDING:
        status = status.model_copy(update={"node": "n", "device": 0, "memory_bytes": 8, "compute": 500})
    meta = ObjectMeta(
        name="share", namespace="default", uid="uid-1", generation=1,
        deletion_timestamp=timestamp(NOW) if deleting else None, finalizers=(FINALIZER,),
    )  # fmt: skip
    return a_partition(**spec).replace(metadata=meta, status=status)  # type: ignore[arg-type]


def test_the_lease_of_a_job_waits_for_its_program() -> None:
    gang = Gang(name="g", size=1, since=timestamp(NOW))
    assert partition_plan.lease_request(stored(BOUND), "me").start_within == 0
    assert partition_plan.lease_request(stored(BOUND, gang=gang, runtime="process"), "me").start_within == 30
    assert partition_plan.lease_request(stored(BOUND, gang=gang, runtime="container"), "me").start_within == 120


def test_the_node_is_told_once_that_the_program_started() -> None:
    started = timestamp(NOW)
    attempt = Attempt(number=1, partitions=("share",))
    waits = a_job().replace(status=GPUJobStatus(attempts=(attempt,)))
    runs = a_job().replace(status=GPUJobStatus(attempts=(attempt.model_copy(update={"start_time": started}),)))
    other = a_job().replace(status=GPUJobStatus(attempts=(Attempt(number=2, partitions=("x",), start_time=started),)))
    share = stored(ACTIVE)
    assert [partition_plan.to_begin(share, job) for job in (None, waits, other, runs)] == [None, None, None, started]
    assert partition_plan.to_begin(stored(BOUND), runs) is None
    plan = partition_plan.plan(share, LIVES, releasing=False, now=NOW, started=started)
    assert (plan.status.started_at, plan.status.expires_at) == (started, LIVES.expires_at)
    told = share.replace(status=plan.status)
    assert partition_plan.to_begin(told, runs) is None
    assert partition_plan.plan(told, LIVES, releasing=False, now=NOW).status == plan.status


@pytest.mark.parametrize(
    ("phase", "answer", "releasing", "then", "reason", "wakes"),
    [
        pytest.param(BOUND, LIVES, False, ACTIVE, "LeaseLives", True, id="a granted lease makes it Active"),
        pytest.param(ACTIVE, LIVES, False, ACTIVE, "LeaseLives", True, id="a live lease keeps it Active"),
        pytest.param(ACTIVE, ENDING, False, ACTIVE, "Ending", True, id="a share in its grace is still taken"),
        pytest.param(BOUND, ENDING, False, BOUND, "Ending", True, id="no lease that ends makes it Active"),
        pytest.param(ACTIVE, OVER, False, EXPIRED, "Expired", False, id="a lease whose time was over is Expired"),
        pytest.param(BOUND, OVER, False, EXPIRED, "Expired", False, id="also when nobody saw it live"),
        pytest.param(ACTIVE, GIVEN_BACK, False, RELEASED, "Released", False, id="a lease given back is Released"),
        pytest.param(ACTIVE, GIVEN_BACK, True, RELEASED, "Released", False, id="also when we gave it back"),
        pytest.param(ACTIVE, ENDING, True, ACTIVE, "Ending", True, id="giving back waits for the node"),
        pytest.param(BOUND, None, True, RELEASED, "Released", False, id="nothing to give back where none was granted"),
        pytest.param(ACTIVE, None, False, FAILED, "LeaseLost", False, id="a node that forgot the lease"),
        pytest.param(
            BOUND, GrantRefused("InsufficientShare", "none"), False, FAILED, "InsufficientShare", False, id="a refusal"
        ),
        pytest.param(ACTIVE, Unreachable("cut"), False, ACTIVE, None, False, id="unreachable is not dead"),
        pytest.param(BOUND, Unreachable("cut"), True, BOUND, None, False, id="nor is it given back"),
        pytest.param(ACTIVE, NodeGone(), True, FAILED, "NodeGone", False, id="a node that people removed is gone"),
    ],
)
def test_the_answer_decides(
    phase: PartitionPhase, answer: Answer, releasing: bool, then: PartitionPhase, reason: str | None, wakes: bool
) -> None:
    plan = partition_plan.plan(stored(phase), answer, releasing=releasing, now=NOW)
    assert plan.status.phase is then
    ended = condition(plan.status.conditions, "Ended")
    assert (ended.reason if ended else None) == reason
    assert (ended is not None and ended.status == "True") == then.ended
    assert (plan.wake is not None) == wakes
    assert not plan.finish


def test_phases_never_go_back() -> None:
    order = list(PartitionPhase)
    answers: list[Answer] = [
        LIVES, ENDING, OVER, GIVEN_BACK, None, GrantRefused("X", "x"), Unreachable("x"), NodeGone(),
    ]  # fmt: skip
    for phase in (BOUND, ACTIVE):
        for answer in answers:
            for releasing in (False, True):
                plan = partition_plan.plan(stored(phase), answer, releasing=releasing, now=NOW)
                assert order.index(plan.status.phase) >= order.index(phase)


def test_an_active_status_carries_the_lease() -> None:
    status = partition_plan.plan(stored(BOUND), LIVES, releasing=False, now=NOW).status
    assert (status.partition_id, status.fencing_token, status.expires_at) == ("uid-1", 3, LIVES.expires_at)
    active = condition(status.conditions, "Active")
    assert active is not None
    assert active.status == "True"


def test_it_wakes_when_the_lease_is_over_and_looks_often_while_it_ends() -> None:
    wake = partition_plan.plan(stored(ACTIVE), LIVES, releasing=False, now=NOW).wake
    assert wake == pytest.approx(3600, abs=1)
    assert partition_plan.plan(stored(ACTIVE), ENDING, releasing=False, now=NOW).wake == ENDING_POLL


def test_the_finalizer_goes_with_the_confirmed_end_and_no_sooner() -> None:
    deleted = stored(ACTIVE, deleting=True)
    assert not partition_plan.plan(deleted, ENDING, releasing=True, now=NOW).finish
    assert not partition_plan.plan(deleted, Unreachable("cut"), releasing=True, now=NOW).finish
    assert partition_plan.plan(deleted, GIVEN_BACK, releasing=True, now=NOW).finish
    assert partition_plan.plan(deleted, NodeGone(), releasing=True, now=NOW).finish


def test_without_a_lease_nothing_is_asked_of_a_node() -> None:
    assert partition_plan.plan_idle(stored(PENDING), releasing=False, now=NOW).status.phase is PENDING
    assert partition_plan.plan_idle(stored(PENDING), releasing=True, now=NOW).status.phase is RELEASED
    assert partition_plan.plan_idle(stored(PENDING, deleting=True), releasing=True, now=NOW).finish
    assert partition_plan.plan_idle(stored(EXPIRED, deleting=True), releasing=True, now=NOW).finish
    assert partition_plan.plan_idle(stored(EXPIRED), releasing=True, now=NOW).status.phase is EXPIRED


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (BOUND, "no lease was made"),
        *((phase, "its node no longer knows its lease") for phase in (ACTIVE, PARKED, UNPARKING)),
    ],
)
def test_what_is_given_back_without_a_lease_says_whether_it_had_one(phase: PartitionPhase, message: str) -> None:
    ended = condition(partition_plan.plan(stored(phase), None, releasing=True, now=NOW).status.conditions, "Ended")
    assert ended is not None
    assert (ended.reason, ended.message) == ("Released", message)


def test_a_lease_is_asked_for_by_the_partitions_uid() -> None:
    request = partition_plan.lease_request(stored(BOUND, user="ada", duration="90s", grace_period="5s"), "cumulus:x")
    assert (request.id, request.device, request.memory_bytes, request.compute) == ("uid-1", 0, 8, 500)
    assert (request.seconds, request.grace, request.user, request.owner) == (90, 5, "ada", "cumulus:x")


@pytest.mark.parametrize(
    ("count", "last_end", "number", "over"),
    [
        pytest.param(1, None, 1, False, id="its attempt runs"),
        pytest.param(1, "2030-01-01T00:00:00Z", 1, True, id="its attempt ended"),
        pytest.param(2, None, 1, True, id="a later attempt was begun"),
        pytest.param(0, None, 1, False, id="an attempt that the view of the job does not show yet"),
    ],
)
def test_a_partition_is_given_back_with_its_attempt(count: int, last_end: str | None, number: int, over: bool) -> None:
    attempts = (Attempt(number=count, end_time=last_end),) if count else ()
    job = a_job().replace(status=GPUJobStatus(attempts=attempts, attempt_count=count))
    partition = stored(ACTIVE)
    labels = partition.metadata.model_copy(update={"labels": {ATTEMPT_LABEL: str(number)}})
    assert partition_plan.releasing(partition.replace(metadata=labels), job, NOW) is over
    assert partition_plan.releasing(partition, None, NOW) is False
    assert partition_plan.releasing(stored(ACTIVE, deleting=True), None, NOW) is True


IDLE = Renewal(policy="WhileIdle", maximum="250s")


@pytest.mark.parametrize(
    ("renewal", "age", "left", "expected"),
    [
        pytest.param(Renewal(), 0, 100, None, id="never renewed unless asked"),
        pytest.param(IDLE, 0, 100, (75, 100), id="when a quarter is left, by its duration"),
        pytest.param(IDLE, 75, 25, (0, 100), id="now"),
        pytest.param(IDLE, 150, 25, (0, 100), id="up to the maximum: exactly"),
        pytest.param(IDLE, 160, 25, (0, 90), id="up to the maximum: what is left of it"),
        pytest.param(IDLE, 225, 25, None, id="the maximum is reached"),
    ],
)
def test_renewal(renewal: Renewal, age: float, left: float, expected: tuple[float, float] | None) -> None:
    lease = replace(LIVES, granted_at=timestamp(NOW - timedelta(seconds=age)), expires_in=left)
    assert partition_plan.renewal(stored(ACTIVE, duration="100s", renewal=renewal), lease, NOW) == expected


def test_over_by_time_only_after_end_grace_and_margin() -> None:
    partition = stored(ACTIVE, grace_period="10s")
    assert not over_by_time(partition, NOW + timedelta(days=9), 0)
    ends = partition.replace(status=partition.status.model_copy(update={"expires_at": timestamp(NOW)}))
    assert not over_by_time(ends, NOW + timedelta(seconds=70), 60)
    assert over_by_time(ends, NOW + timedelta(seconds=71), 60)


WISH = ParkRequest(reason="Requested", duration="24h")
TAKEN_BACK = WISH.model_copy(update={"back_since": timestamp(NOW)})
IN_MEMORY = Parked(since=timestamp(NOW), until=timestamp(NOW))
SEEN = {"observed_generation": 1}


@pytest.mark.parametrize(
    ("phase", "spec", "status", "hours"),
    [
        pytest.param(ACTIVE, {}, {}, 0, id="its end"),
        pytest.param(ACTIVE, {"park": WISH}, {}, 24, id="it may have been parked"),
        pytest.param(ACTIVE, {"park": WISH}, {"park_refused": 1}, 0, id="its node refused to"),
        pytest.param(ACTIVE, {"park": TAKEN_BACK}, {}, 24, id="the wish was taken back, and nobody has seen it since"),
        pytest.param(ACTIVE, {"park": TAKEN_BACK}, {**SEEN, "park_asked": 1}, 24, id="its node was at it still"),
        pytest.param(ACTIVE, {"park": TAKEN_BACK}, SEEN, 0, id="taken back, and it was seen to run"),
        pytest.param(PARKED, {"park": WISH}, {"parked": IN_MEMORY}, 0, id="parked: to the end of its time there"),
        pytest.param(UNPARKING, {}, {"parked": IN_MEMORY}, 1, id="its node may have brought it back"),
        pytest.param(
            UNPARKING, {}, {"parked": IN_MEMORY.model_copy(update={"until": timestamp(NOW + timedelta(hours=9))})}, 0,
            id="its node said when the new lease ends",
        ),
        pytest.param(ACTIVE, {"until": timestamp(NOW + timedelta(hours=3))}, {}, 3, id="it may have been extended"),
    ],
)  # fmt: skip
def test_the_latest_end_counts_what_its_node_may_have_been_asked_for(
    phase: PartitionPhase, spec: dict[str, object], status: dict[str, object], hours: float
) -> None:
    partition = stored(phase, duration="1h", **spec)
    update = {"expires_at": timestamp(NOW), **status}
    partition = partition.replace(status=partition.status.model_copy(update=update))
    assert latest_end(partition) == NOW + timedelta(hours=hours)


def test_a_wish_to_be_parked_is_over_once_its_node_is_not_at_it() -> None:
    at_it, runs = replace(LIVES, state=LeaseState.PARKING), LIVES
    asked = [
        partition_plan.plan(stored(ACTIVE, park=park), lease, releasing=False, now=NOW).status.park_asked
        for park, lease in ((WISH, at_it), (WISH, runs), (TAKEN_BACK, at_it), (TAKEN_BACK, runs))
    ]
    assert asked == [1, 1, 1, None]


def test_what_waits_in_memory_again_has_the_end_that_its_node_says() -> None:
    share = stored(UNPARKING)
    share = share.replace(status=share.status.model_copy(update={"parked": IN_MEMORY, "expires_at": timestamp(NOW)}))
    status = partition_plan.plan(share, replace(LIVES, state=LeaseState.PARKED), releasing=False, now=NOW).status
    assert (status.phase, status.expires_at, status.fencing_token) == (UNPARKING, LIVES.expires_at, 3)
    assert status.parked is not None
    assert status.parked.until == LIVES.expires_at
