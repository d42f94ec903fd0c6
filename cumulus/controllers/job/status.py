"""What a job's status says at each step of its life: its phase and its conditions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cumulus.clock import timestamp, to_the_second
from cumulus.resources.conditions import condition_set
from cumulus.resources.job import Attempt, GPUJobStatus, JobPromise
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import Condition, condition
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.quantity import bytes_in_words
from cumulus.resources.reasons import AttemptReason, JobCondition, JobReason, PartitionCondition, PartitionReason


def waiting(status: GPUJobStatus, reason: str, message: str, now: datetime) -> GPUJobStatus:
    """Pending, with why."""
    conditions = condition_set(status.conditions, timestamp(now), JobCondition.SCHEDULED, False, reason, message)
    for type in (JobCondition.PARTITIONS_READY, JobCondition.RUNNING):
        conditions = condition_set(conditions, timestamp(now), type, False, JobReason.WAITING)
    return status.model_copy(update={"phase": JobPhase.PENDING, "conditions": conditions})


def suspended(status: GPUJobStatus, field: str, now: datetime) -> GPUJobStatus:
    """Held by that field of its spec. Its clock starts anew when it is resumed, as that of a Kubernetes Job does."""
    conditions = condition_set(
        status.conditions, timestamp(now), JobCondition.SUSPENDED, True, JobReason.SUSPENDED, f"{field} is true"
    )
    return status.model_copy(update={"phase": JobPhase.SUSPENDED, "conditions": conditions, "start_time": None})


def resumed(status: GPUJobStatus, now: datetime) -> GPUJobStatus:
    """No longer held, where it ever was."""
    if condition(status.conditions, JobCondition.SUSPENDED) is None:
        return status
    conditions = condition_set(status.conditions, timestamp(now), JobCondition.SUSPENDED, False, JobReason.RESUMED)
    return status.model_copy(update={"conditions": conditions})


def scheduled(status: GPUJobStatus, now: datetime, *, active: bool, running: bool) -> GPUJobStatus:
    """On its nodes: whether all leases are granted, and whether all replicas run."""
    moment = timestamp(now)
    conditions = condition_set(status.conditions, moment, JobCondition.SCHEDULED, True, JobReason.BOUND)
    ready = JobReason.ACTIVE if active else JobReason.GRANTING
    conditions = condition_set(conditions, moment, JobCondition.PARTITIONS_READY, active, ready)
    started = JobReason.STARTED if running else JobReason.STARTING
    conditions = condition_set(conditions, moment, JobCondition.RUNNING, running, started)
    phase = JobPhase.RUNNING if running else JobPhase.SCHEDULED
    return status.model_copy(update={"conditions": conditions, "phase": phase})


def parked(status: GPUJobStatus, partition: GPUPartition, now: datetime) -> GPUJobStatus:
    """Its program waits in main memory, or is on its way back."""
    moment, asked = timestamp(now), partition.spec.park
    reason, message = (asked.reason, asked.message) if asked is not None else (JobReason.PARKED, "parked on its node")
    kept = partition.status.parked
    if kept is not None:
        until = f", until {to_the_second(kept.until)} at most" if kept.until else ""
        message = f"{message}; {bytes_in_words(kept.memory_bytes)} in main memory{until}"
    conditions = condition_set(status.conditions, moment, JobCondition.PARKED, True, reason, message)
    place, why = str(JobReason.PARKED), ""
    if partition.waits:
        bound = condition(partition.status.conditions, PartitionCondition.BOUND)
        place, why = (bound.reason, bound.message) if bound is not None and bound.status == "False" else (place, why)
    elif partition.status.phase is PartitionPhase.UNPARKING:
        place = JobReason.UNPARKING
    conditions = condition_set(conditions, moment, JobCondition.SCHEDULED, False, place, why)
    for type in (JobCondition.PARTITIONS_READY, JobCondition.RUNNING):
        conditions = condition_set(conditions, moment, type, False, JobReason.PARKED)
    promise = partition.status.promise if partition.waits else None
    return status.model_copy(
        update={
            "phase": JobPhase.PARKED, "conditions": conditions,
            "promise": None if promise is None else JobPromise(start_by=promise.start_by),
        }
    )  # fmt: skip


def not_parked(status: GPUJobStatus, held: Sequence[GPUPartition], now: datetime) -> GPUJobStatus:
    """On its GPU: whether it came back there, or could not be parked."""
    for partition in held:
        said = condition(partition.status.conditions, PartitionCondition.PARKED)
        if said is not None and said.status == "False":
            conditions = condition_set(
                status.conditions, timestamp(now), JobCondition.PARKED, False, said.reason, said.message
            )
            status = status.model_copy(update={"conditions": conditions})
    return status


def idle(status: GPUJobStatus, reason: str | None, message: str, now: datetime) -> GPUJobStatus:
    """With the condition Idle, for that reason; with None its GPU works, where it was ever said not to."""
    kind = JobCondition.IDLE
    if reason is None and condition(status.conditions, kind) is None:
        return status
    truth, why = reason is not None, reason or JobReason.GPU_BUSY
    conditions = condition_set(status.conditions, timestamp(now), kind, truth, why, message)
    return status.model_copy(update={"conditions": conditions})


def overused(status: GPUJobStatus, held: Sequence[GPUPartition], now: datetime) -> GPUJobStatus:
    """With the condition Overused, if processes of the attempt, or of one before it, held more than its leases."""
    kind = JobCondition.OVERUSED
    found = [condition(partition.status.conditions, PartitionCondition.OVERUSED) for partition in held]
    over = next((each for each in found if each is not None and each.status == "True"), None)
    if over is None:
        if condition(status.conditions, kind) is None:
            return status
        over = Condition(type=kind, status="False", reason=PartitionReason.WITHIN_LEASE)
    conditions = condition_set(status.conditions, timestamp(now), kind, over.status, over.reason, over.message)
    return status.model_copy(update={"conditions": conditions})


def ran(status: GPUJobStatus, now: datetime) -> GPUJobStatus:
    """With the conditions of an attempt that got to run, also where its end was the first that was seen of it."""
    conditions = condition_set(status.conditions, timestamp(now), JobCondition.SCHEDULED, True, JobReason.BOUND)
    conditions = condition_set(conditions, timestamp(now), JobCondition.PARTITIONS_READY, True, JobReason.ACTIVE)
    return status.model_copy(update={"conditions": conditions})


def stopped(status: GPUJobStatus, reason: str, text: str, now: datetime) -> GPUJobStatus:
    """Its attempt is over, and the job is not done."""
    conditions = status.conditions
    for type in (JobCondition.SCHEDULED, JobCondition.PARTITIONS_READY, JobCondition.RUNNING):
        message = text if type is JobCondition.RUNNING else ""
        conditions = condition_set(conditions, timestamp(now), type, False, reason, message)
    if condition(conditions, JobCondition.PARKED) is not None:
        conditions = condition_set(conditions, timestamp(now), JobCondition.PARKED, False, reason)
    if reason == AttemptReason.OVERUSED:
        conditions = condition_set(conditions, timestamp(now), JobCondition.OVERUSED, True, reason, text)
    return status.model_copy(update={"phase": JobPhase.PENDING, "conditions": conditions})


def succeeded(status: GPUJobStatus, attempt: Attempt, text: str, now: datetime) -> GPUJobStatus:
    """Its last attempt did the job's work."""
    moment, reason = timestamp(now), attempt.reason
    conditions = condition_set(status.conditions, moment, JobCondition.RUNNING, False, reason)
    for type in (JobCondition.COMPLETE, JobCondition.SUCCEEDED):
        conditions = condition_set(conditions, moment, type, True, reason, text)
    return status.model_copy(
        update={"phase": JobPhase.SUCCEEDED, "conditions": conditions, "completion_time": attempt.end_time}
    )


def failed(status: GPUJobStatus, reason: str, message: str, now: datetime) -> GPUJobStatus:
    """The job is given up."""
    conditions = condition_set(status.conditions, timestamp(now), JobCondition.FAILED, True, reason, message)
    return status.model_copy(
        update={"phase": JobPhase.FAILED, "conditions": conditions, "completion_time": timestamp(now)}
    )
