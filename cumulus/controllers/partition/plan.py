"""Plans the next step of one partition from its node's answer: pure, no I/O.

Pending -> Bound (schedule) -> Active -> Expired | Released | Failed. An ended phase is written only when the node has
confirmed that the share is free, or when a person removed the node. A program that is parked goes another way then:
Active -> Parked (its share is free) -> Unparking (schedule) -> Active.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from cumulus.chronos.contract import EndReason, Lease, LeaseRequest, LeaseState
from cumulus.clock import parse_timestamp, timestamp
from cumulus.resources.conditions import Truth, condition_set
from cumulus.resources.enforcement import Sharing
from cumulus.resources.job import GPUJob
from cumulus.resources.meta import ATTEMPT_LABEL, Condition, condition
from cumulus.resources.parking import Parked
from cumulus.resources.partition import GPUPartition, GPUPartitionStatus, PartitionPhase, start_within
from cumulus.resources.quantity import parse_duration
from cumulus.resources.reasons import ParkCause, PartitionCondition, PartitionReason, SchedulingReason

ENDING_POLL = 0.25
"""Seconds between looks at a lease whose processes are being ended."""

MOVING_POLL = 0.5
"""Seconds between looks at a program that is on its way to main memory or back."""

UNPARK_RETRY = 5.0
"""Seconds after which a node is asked again for the share of a parked program, where it did not have it."""

RENEW_FRACTION = 0.25
"""A lease that is renewed while idle is renewed when this part of its duration is left."""

RENEW_LEAD = 40.0
"""Of a job's lease more is left then, as far as the half of it lasts: its next attempt would be queued before."""

RECLAIM_MARGIN = 5.0
"""Seconds past its job's grace after which a share that is taken back is released whatever its job does."""

EXTENSION_SLACK = 1.0
"""Seconds by which a lease may end before the time that it was extended to."""


@dataclass(frozen=True, slots=True)
class GrantRefused:
    """The node would not grant the lease; `reason` is one CamelCase word."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class UnparkRefused:
    """The node does not have the share to which the parked program is to come back."""

    message: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The node did not answer, or its ledger cannot be used: nothing follows but a condition, which says so at once."""

    message: str
    reason: str = PartitionReason.NODE_UNREACHABLE


@dataclass(frozen=True, slots=True)
class NodeGone:
    """A person deleted the GPUNode: it is not coming back with that lease."""


Answer = Lease | None | GrantRefused | UnparkRefused | Unreachable | NodeGone
"""What the node said when it was asked to grant, show, park, unpark or release the lease."""


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """`status` to write where it differs; whether the finalizer goes with it; when to look again."""

    status: GPUPartitionStatus
    finish: bool = False
    wake: float | None = None
    ended_at: str = ""
    """When the node saw the share come free, by its own clock; "" where it did not say."""


def releasing(partition: GPUPartition, owner: GPUJob | None, now: datetime) -> bool:
    """Whether the lease is to end now: the partition is being deleted, or the attempt it was made for is over."""
    if partition.deleting:
        return saving_left(partition, owner, now) <= 0
    if reclaim_due(partition, now):
        return True
    return owner is not None and attempt_over(partition, owner)


def reclaim_left(partition: GPUPartition, now: datetime) -> float | None:
    """Seconds until a share that is taken back must be free: its job ends before, as a rule. None where it is not."""
    taken = partition.status.reclaim
    if taken is None:
        return None
    grace = parse_duration(partition.spec.grace_period) + RECLAIM_MARGIN
    return grace - (now - parse_timestamp(taken.at)).total_seconds()


def reclaim_due(partition: GPUPartition, now: datetime) -> bool:
    """Whether a share that is taken back must be free by now."""
    left = reclaim_left(partition, now)
    return left is not None and left <= 0


def saving_left(partition: GPUPartition, owner: GPUJob | None, now: datetime) -> float:
    """Seconds for which the lease of a partition that is being deleted stays, so that the program in it saves its work;
    0 where it need not. The job's controller asks the program, and it ends sooner as a rule; then the attempt is over.
    """
    deleted = partition.metadata.deletion_timestamp
    if deleted is None or owner is None or owner.spec.checkpoint is None or owner.deleting:
        return 0.0
    live = owner.status.live_attempt
    if live is None or live.start_time is None or partition.metadata.name not in live.partitions:
        return 0.0
    grace = parse_duration(partition.spec.grace_period)
    return max(0.0, grace - (now - parse_timestamp(deleted)).total_seconds())


def attempt_over(partition: GPUPartition, job: GPUJob) -> bool:
    """Whether the job's attempt that this partition was made for has ended."""
    number = int(partition.metadata.labels.get(ATTEMPT_LABEL, "0"))
    if number < job.status.attempt_count:
        return True
    return any(attempt.number == number and attempt.end_time is not None for attempt in job.status.attempts)


def lease_request(partition: GPUPartition, owner: str) -> LeaseRequest:
    """The lease that a bound partition asks its node for. Its id is the partition's uid: an id is used once."""
    spec, status = partition.spec, partition.status
    assert status.device is not None
    return LeaseRequest(
        id=partition.uid, device=status.device, memory_bytes=status.memory_bytes, compute=status.compute,
        seconds=parse_duration(spec.duration), user=spec.user or _job(partition),
        grace=parse_duration(spec.grace_period), owner=owner, start_within=start_within(spec), name=_called(partition),
        overuse=spec.overuse, sharing=spec.sharing or Sharing.CONCURRENT,
    )  # fmt: skip


def _called(partition: GPUPartition) -> str:
    """By what people on the node may call its lease."""
    metadata = partition.metadata
    return metadata.name if metadata.namespace == "default" else f"{metadata.namespace}/{metadata.name}"


def to_begin(partition: GPUPartition, job: GPUJob | None) -> str | None:
    """When the job's program started, where the node has not been told that the lease's time counts since then."""
    status = partition.status
    if job is None or status.phase is not PartitionPhase.ACTIVE or status.started_at is not None:
        return None
    live = job.status.attempts[-1] if job.status.attempts else None
    return live.start_time if live is not None and partition.metadata.name in live.partitions else None


def plan(
    partition: GPUPartition, answer: Answer, *, releasing: bool, now: datetime, started: str | None = None
) -> PartitionPlan:
    """The next state of a partition that was bound and has not ended, from what its node answered; `started` as
    `to_begin` said when it was asked."""
    match answer:
        case Unreachable():
            return PartitionPlan(_unreachable(partition, answer, now))
        case NodeGone():
            return _end(partition, PartitionPhase.FAILED, PartitionReason.NODE_GONE, "its node was deleted", now)
        case UnparkRefused():
            return PartitionPlan(_not_unparked(partition, answer, now), wake=UNPARK_RETRY)
        case GrantRefused(reason, message):
            return _end(partition, PartitionPhase.FAILED, reason, message, now)
        case None if releasing:
            bound = partition.status.phase is PartitionPhase.BOUND
            message = "no lease was made" if bound else "its node no longer knows its lease"
            return _end(partition, PartitionPhase.RELEASED, PartitionReason.RELEASED, message, now)
        case None:
            message = "the node does not know the lease"
            return _end(partition, PartitionPhase.FAILED, PartitionReason.LEASE_LOST, message, now)
        case Lease(state=LeaseState.ENDED):
            return _ended(partition, answer, now)
        case Lease(state=LeaseState.ENDING):
            return PartitionPlan(_ending(partition, answer, now), wake=ENDING_POLL)
        case Lease(state=LeaseState.PARKED) if partition.status.phase is PartitionPhase.UNPARKING:
            # It has its token where the answer of an earlier try was lost: without it none would ever succeed.
            return PartitionPlan(_still_parked(partition, answer), wake=MOVING_POLL)
        case Lease(state=LeaseState.PARKED):
            wake = max(0.0, answer.expires_in) + ENDING_POLL
            return PartitionPlan(_parked(partition, answer, now), wake=wake, ended_at=answer.parked_at)
        case Lease(state=LeaseState.UNPARKING):
            status = _granted(partition, answer, now).model_copy(update={"phase": PartitionPhase.UNPARKING})
            return PartitionPlan(status, wake=MOVING_POLL)
        case Lease():
            # What its node was asked for has yet to be done, or refused.
            parking = wants_to_park(partition) and not was_refused(partition, answer)
            wake = MOVING_POLL if parking else max(0.0, answer.expires_in) + ENDING_POLL
            return PartitionPlan(_active(partition, answer, now, started), wake=wake)


def status_refused(partition: GPUPartition, why: str, now: datetime) -> PartitionPlan:
    """Its status cannot be written, and its lease has ended: it fails, with the least that says so."""
    moment, message = timestamp(now), f"its status cannot be written: {why}"
    small = GPUPartitionStatus(
        phase=PartitionPhase.FAILED, node=partition.status.node, device=partition.status.device, ended_at=moment,
        conditions=condition_set((), moment, PartitionCondition.ENDED, True, PartitionReason.STATUS_REFUSED, message),
    )  # fmt: skip
    return PartitionPlan(small, finish=partition.deleting)


def plan_idle(partition: GPUPartition, *, releasing: bool, now: datetime) -> PartitionPlan:
    """The next state of a partition that holds no lease: Pending, or ended."""
    if partition.status.phase is PartitionPhase.PENDING and releasing and not partition.deleting:
        return _end(partition, PartitionPhase.RELEASED, PartitionReason.RELEASED, "no lease was made", now)
    return PartitionPlan(partition.status, finish=partition.deleting)


def extension(partition: GPUPartition, lease: Lease) -> float | None:
    """Seconds from now for which a lease is to be renewed so that it lasts as long as it was extended to; None where it
    does, or is over."""
    if partition.spec.until is None or lease.state is not LeaseState.ACTIVE:
        return None
    longer = (parse_timestamp(partition.spec.until) - parse_timestamp(lease.expires_at)).total_seconds()
    return lease.expires_in + longer if longer > EXTENSION_SLACK else None


def renewal(partition: GPUPartition, lease: Lease, now: datetime) -> tuple[float, float] | None:
    """For a lease that is renewed while nobody waits: (seconds until it is time, seconds to renew it for then).

    None where it is never renewed, or has reached the maximum.
    """
    spec = partition.spec.renewal
    if partition.to_be_parked:
        return None
    if spec.policy != "WhileIdle" or spec.maximum is None or lease.state is not LeaseState.ACTIVE:
        return None
    duration = parse_duration(partition.spec.duration)
    since = parse_timestamp(partition.status.started_at or lease.granted_at)
    if partition.status.parked is not None and partition.status.activated_at is not None:
        # A program that came back from main memory has a lease of its own.
        since = max(since, parse_timestamp(partition.status.activated_at))
    left = parse_duration(spec.maximum) - (now - since).total_seconds()
    if left <= lease.expires_in + 1:
        return None
    due = RENEW_FRACTION * duration
    if partition.spec.gang is not None:
        due = max(due, min(RENEW_LEAD, 0.6 * duration))
    wait = max(0.0, lease.expires_in - due)
    return wait, min(duration, left - wait)


def _active(partition: GPUPartition, lease: Lease, now: datetime, started: str | None) -> GPUPartitionStatus:
    moment = timestamp(now)
    conditions = condition_set(
        partition.status.conditions, moment, PartitionCondition.ACTIVE, True, PartitionReason.LEASE_GRANTED
    )
    return _granted(partition, lease, now).model_copy(
        update={
            "phase": PartitionPhase.ACTIVE,
            "started_at": started or partition.status.started_at,
            **_asked(partition, lease),
            "parked": _came_back(partition, lease),
            "conditions": _with_parking(
                _with_overuse(
                    condition_set(conditions, moment, PartitionCondition.ENDED, False, PartitionReason.LEASE_LIVES),
                    lease,
                    moment,
                ),
                partition,
                lease,
                moment,
            ),
        }
    )


def _came_back(partition: GPUPartition, lease: Lease) -> Parked | None:
    """How it was parked the last time, with how long it took to come back."""
    known = partition.status.parked
    if known is None or not partition.status.phase.parked:
        return known
    return known.model_copy(update={"unpark_seconds": lease.moved_in})


def _asked(partition: GPUPartition, lease: Lease) -> dict[str, int | None]:
    """For which generation of the spec the node was asked to park its program, and has refused it. None once it is not
    at it, and nobody wants it any more."""
    generation = partition.metadata.generation
    if not wants_to_park(partition):
        return {"park_asked": generation if lease.state is LeaseState.PARKING else None}
    refused = generation if was_refused(partition, lease) else partition.status.park_refused
    return {"park_asked": generation, "park_refused": refused}


def wants_to_park(partition: GPUPartition) -> bool:
    """Whether its node is to be asked to park its program, or was and is at it."""
    return partition.status.phase is PartitionPhase.ACTIVE and partition.to_be_parked


def was_refused(partition: GPUPartition, lease: Lease) -> bool:
    """Whether the node has refused the wish to be parked that it was asked for, and the program goes on."""
    asked = partition.status.park_asked == partition.metadata.generation
    return asked and lease.state is LeaseState.ACTIVE and lease.park_refused is not None


def _with_parking(
    conditions: tuple[Condition, ...], partition: GPUPartition, lease: Lease, moment: str
) -> tuple[Condition, ...]:
    """With the condition Parked, if its program was parked before, or could not be."""
    kind = PartitionCondition.PARKED
    if wants_to_park(partition) and was_refused(partition, lease) and lease.park_refused is not None:
        refusal = f"{lease.park_refused.reason}: {lease.park_refused.message}"
        return condition_set(conditions, moment, kind, False, PartitionReason.PARK_REFUSED, refusal)
    if partition.status.phase.parked:
        message = f"it took {lease.moved_in:.1f} s to bring its program back"
        return condition_set(conditions, moment, kind, False, PartitionReason.UNPARKED, message)
    return conditions


def _parked(partition: GPUPartition, lease: Lease, now: datetime) -> GPUPartitionStatus:
    moment, park = timestamp(now), partition.spec.park
    reason, message = (park.reason, park.message) if park is not None else (ParkCause.REQUESTED, "parked on its node")
    conditions = condition_set(
        partition.status.conditions, moment, PartitionCondition.ACTIVE, False, PartitionReason.PARKED
    )
    known = partition.status.parked if partition.status.phase is PartitionPhase.PARKED else None
    since = known.since if known is not None else lease.parked_at or moment
    parked = Parked(since=since, until=lease.expires_at, memory_bytes=lease.parked_bytes, seconds=lease.moved_in)
    return _granted(partition, lease, now).model_copy(
        update={
            "phase": PartitionPhase.PARKED,
            "parked": parked,
            "reclaim": None,
            "conditions": condition_set(conditions, moment, PartitionCondition.PARKED, True, reason, message),
        }
    )


def _still_parked(partition: GPUPartition, lease: Lease) -> GPUPartitionStatus:
    """It was to come back, and waits in main memory yet, or again."""
    parked = partition.status.parked
    until = None if parked is None else parked.model_copy(update={"until": lease.expires_at})
    update = {"fencing_token": lease.token, "expires_at": lease.expires_at, "parked": until}
    return partition.status.model_copy(update=update)


def _not_unparked(partition: GPUPartition, answer: UnparkRefused, now: datetime) -> GPUPartitionStatus:
    """It keeps its place in the queue's books: the node will have the share, or nobody has."""
    conditions = condition_set(
        partition.status.conditions, timestamp(now), PartitionCondition.ACTIVE, False,
        SchedulingReason.WAITING_FOR_SHARE, answer.message,
    )  # fmt: skip
    return partition.status.model_copy(update={"conditions": conditions})


def _ending(partition: GPUPartition, lease: Lease, now: datetime) -> GPUPartitionStatus:
    """The phase stays: the share is still taken."""
    conditions = condition_set(
        partition.status.conditions,
        timestamp(now),
        PartitionCondition.ENDED,
        False,
        PartitionReason.ENDING,
        _why(lease),
    )
    conditions = _with_overuse(conditions, lease, timestamp(now))
    return _granted(partition, lease, now).model_copy(update={"conditions": conditions})


def _ended(partition: GPUPartition, lease: Lease, now: datetime) -> PartitionPlan:
    phase, reason = _ENDS[lease.end_reason or EndReason.RELEASED]
    known = _granted(partition, lease, now)
    conditions = _with_overuse(known.conditions, lease, timestamp(now))
    known = known.model_copy(update={"conditions": conditions})
    plan = _end(partition.replace(status=known), phase, reason, _why(lease), now)
    if not lease.ended_at:
        return plan
    # It may have been a while ago: the node ends a lease also while no daemon runs.
    return replace(plan, status=plan.status.model_copy(update={"ended_at": lease.ended_at}), ended_at=lease.ended_at)


_ENDS = {
    EndReason.EXPIRED: (PartitionPhase.EXPIRED, PartitionReason.EXPIRED),
    EndReason.RELEASED: (PartitionPhase.RELEASED, PartitionReason.RELEASED),
    EndReason.OVERUSED: (PartitionPhase.FAILED, PartitionReason.OVERUSED),
    EndReason.LOST: (PartitionPhase.FAILED, PartitionReason.DEVICE_LOST),
    EndReason.UNPARK_FAILED: (PartitionPhase.FAILED, PartitionReason.UNPARK_FAILED),
    EndReason.REBOOTED: (PartitionPhase.FAILED, PartitionReason.REBOOTED),
}


def _with_overuse(conditions: tuple[Condition, ...], lease: Lease, moment: str) -> tuple[Condition, ...]:
    """With the condition Overused, if its processes ever held more than it."""
    kind = PartitionCondition.OVERUSED
    if lease.held_bytes:
        return condition_set(
            conditions, moment, kind, True, PartitionReason.OVERUSED, f"its processes {lease.overused}"
        )
    if condition(conditions, kind) is None:
        return conditions
    return condition_set(conditions, moment, kind, False, PartitionReason.WITHIN_LEASE)


def _end(partition: GPUPartition, phase: PartitionPhase, reason: str, message: str, now: datetime) -> PartitionPlan:
    moment = timestamp(now)
    conditions = condition_set(partition.status.conditions, moment, PartitionCondition.ACTIVE, False, reason, message)
    status = partition.status.model_copy(
        update={
            "observed_generation": partition.metadata.generation or 0,
            "phase": phase,
            "conditions": condition_set(conditions, moment, PartitionCondition.ENDED, True, reason, message),
            "ended_at": moment,
        }
    )
    return PartitionPlan(status, finish=partition.deleting)


def _granted(partition: GPUPartition, lease: Lease, now: datetime) -> GPUPartitionStatus:
    return partition.status.model_copy(
        update={
            "observed_generation": partition.metadata.generation or 0,
            "partition_id": lease.id,
            "memory_bytes": lease.memory_bytes,
            "compute": lease.compute,
            "fencing_token": lease.token,
            "overuse": lease.overuse,
            "activated_at": _activated(partition, lease, now),
            "expires_at": lease.expires_at,
        }
    )


def _activated(partition: GPUPartition, lease: Lease, now: datetime) -> str:
    """Since when it holds the share that it holds now, or held last."""
    status = partition.status
    if status.parked is None or status.activated_at is None:
        return lease.granted_at
    if status.phase is PartitionPhase.PARKED and lease.holds_share:
        # Somebody on its node has brought it back, who need not ask the queue.
        return timestamp(now)
    return status.activated_at


def _unreachable(partition: GPUPartition, answer: Unreachable, now: datetime) -> GPUPartitionStatus:
    truth: Truth = "Unknown" if partition.status.phase is PartitionPhase.ACTIVE else "False"
    moment = timestamp(now)
    conditions = condition_set(
        partition.status.conditions, moment, PartitionCondition.ACTIVE, truth, answer.reason, answer.message
    )
    return partition.status.model_copy(update={"conditions": conditions})


def _job(partition: GPUPartition) -> str:
    """namespace/name of the job it belongs to: whom the lease is for where the spec names nobody."""
    owner = partition.job
    return f"{partition.metadata.namespace}/{owner.name}" if owner is not None else ""


def _why(lease: Lease) -> str:
    match lease.end_reason:
        case EndReason.EXPIRED:
            return "its time was over"
        case EndReason.OVERUSED:
            return f"its processes {lease.overused or 'held more than it'}"
        case EndReason.LOST:
            return "its device failed"
        case EndReason.UNPARK_FAILED:
            return "it was parked and could not be brought back"
        case EndReason.REBOOTED:
            return "its node was restarted while it was parked"
        case _:
            return "it was given back"
