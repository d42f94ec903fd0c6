"""Whether the program of a job is to wait in main memory, and when it is to come back to its GPU. Pure.

What is wanted stands in `spec.park` of the job's one partition; the partition's controller has the node do it. A node
that refuses is not asked again for the same cause: the program goes on, and the next means is taken, if there is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from cumulus.chronos.contract.parking import expected_seconds
from cumulus.clock import parse_timestamp, timestamp
from cumulus.controllers.job.view import JobView, Turn
from cumulus.resources import reclaim
from cumulus.resources.annotations import UNPARK_REQUESTED
from cumulus.resources.job import Attempt, GPUJob
from cumulus.resources.meta import condition
from cumulus.resources.parking import ParkRequest
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.quantity import format_duration, parse_duration
from cumulus.resources.reasons import ParkCause, PartitionCondition

PART_OF_LEASE = 2
"""A lease is parked before its end no earlier than in its last such part, however long parking takes."""

TURN_PARTS = 10
"""A turn lasts at least so many times as long as parking a program and bringing it back."""

TURN_POLL = 30.0
"""Seconds between looks at whether somebody waits for the GPU of a job that had its turn."""

IDLE_POLL = 30.0
"""Seconds between looks at whether the GPU of a job does nothing, where that has a consequence."""


def parkable(job: GPUJob) -> bool:
    """Whether its programs are of one lease: only that is ever parked."""
    return job.spec.replicas * job.spec.gpu.count == 1


def wished(view: JobView, attempt: Attempt, partition: GPUPartition) -> ParkRequest | None:
    """What `spec.park` of the partition should be; None where it should stay as it is."""
    park, phase, job = partition.spec.park, partition.status.phase, view.job
    waits = park is not None and park.back_since is None
    if phase is PartitionPhase.ACTIVE:
        cause = _cause(view, attempt, partition)
        if cause is None:
            return _back(park, view.now) if park is not None and waits else None
        return None if park is not None and waits and park.reason == cause[0] else _request(job, *cause)
    if phase is not PartitionPhase.PARKED:
        return None
    if job.spec.park and (park is None or not waits or park.reason != ParkCause.REQUESTED):
        return _request(job, ParkCause.REQUESTED, "spec.park is true")
    if waits and not _stays(job, park):
        return _back(park, view.now)
    if park is None:
        # Its node has parked it, as somebody there asked.
        return _back(_request(job, ParkCause.REQUESTED, "parked on its node"), view.now)
    return None


def wake(view: JobView, partition: GPUPartition) -> float | None:
    """Seconds until time alone may change what is wished."""
    waits = []
    for left in (_until_parked_at_end(view, partition), _until_preempted(view, partition)):
        if left is not None:
            waits.append(max(0.1, left))
    if view.idle is not None:
        waits.append(IDLE_POLL)
    if view.turn is not None:
        left = view.turn.length - view.turn.had
        waits.append(left if left > 0 else TURN_POLL)
    return min(waits, default=None)


def refused(partition: GPUPartition) -> bool:
    """Whether its node has refused to park it, for the cause that holds now."""
    park = partition.spec.park
    return park is not None and park.back_since is None and not partition.to_be_parked


def holds_still(view: JobView, attempt: Attempt, partition: GPUPartition) -> bool:
    """Whether a job that people suspended with `spec.park` waits in main memory, or may still be brought there: else it
    is stopped."""
    return view.job.spec.park and attempt.start_time is not None and not _refused_for(partition, ParkCause.REQUESTED)


def yields(view: JobView, attempt: Attempt, partition: GPUPartition) -> bool:
    """Whether a job whose share is taken back for another gives it back by waiting in main memory, or may still do so:
    else it is ended for it, after a checkpoint."""
    if partition.status.phase.parked:
        return True
    if attempt.start_time is None or not parkable(view.job):
        return False
    park = partition.spec.park
    if park is not None and park.back_since is None and park.reason == ParkCause.PREEMPTED:
        return partition.to_be_parked
    return _in_time(view, partition)


def instead_of_handover(view: JobView, partition: GPUPartition) -> bool:
    """Whether it is to be parked when its lease ends, so that no next attempt is queued ahead."""
    return _parks_at_end(view.job) and not _refused_for(partition, ParkCause.LEASE_OVER)


def on_gpu_since(attempt: Attempt, partition: GPUPartition) -> datetime | None:
    """Since when the program of an attempt has its GPU. One that comes back from main memory has it later than its
    share was bound: its node may not answer for a while."""
    status = partition.status
    said = condition(status.conditions, PartitionCondition.PARKED) if status.parked is not None else None
    back = said.last_transition_time if said is not None and said.status == "False" else None
    return max((parse_timestamp(at) for at in (status.activated_at, attempt.start_time, back) if at), default=None)


def idle_for(view: JobView, attempt: Attempt, held: Sequence[GPUPartition]) -> float | None:
    """Seconds for which the GPUs of a running attempt have done nothing since it has them; None where they work, or
    where nobody knows."""
    if view.idle_since is None or attempt.start_time is None:
        return None
    begun = [since for partition in held if (since := on_gpu_since(attempt, partition)) is not None]
    return max(0.0, (view.now - max(view.idle_since, *begun)).total_seconds())


def idle_too_long(view: JobView, attempt: Attempt, held: Sequence[GPUPartition], action: str) -> float | None:
    """For how long they did nothing, where that is so long that the action is due."""
    if view.idle is None or view.idle.action != action:
        return None
    seconds = idle_for(view, attempt, held)
    return seconds if seconds is not None and seconds >= parse_duration(view.idle.after) else None


def _cause(view: JobView, attempt: Attempt, partition: GPUPartition) -> tuple[ParkCause, str] | None:
    """Why a running program is to be parked now."""
    job = view.job
    if attempt.start_time is None or not parkable(job):
        return None
    if job.spec.park:
        return ParkCause.REQUESTED, "spec.park is true"
    taken, left = partition.status.reclaim, _until_preempted(view, partition)
    if taken is not None and left is not None and left <= 0 and yields(view, attempt, partition):
        return ParkCause.PREEMPTED, reclaim.words(taken)
    left = _until_parked_at_end(view, partition)
    if left is not None and left <= 0:
        return ParkCause.LEASE_OVER, "its lease is nearly over"
    idle = idle_too_long(view, attempt, [partition], "Park")
    if idle is not None:
        return ParkCause.IDLE, f"its GPU did nothing for {format_duration(idle)}"
    if view.turn is not None and view.turn.waited_for:
        return ParkCause.TURN_OVER, _turn_words(view.turn)
    return None


def turn_length(asked: float, partition: GPUPartition) -> float:
    """Seconds that a turn lasts which its queue lets last so many: at least ten times what its moves took the last
    time, or are expected to take."""
    expected, known = expected_seconds(partition.status.memory_bytes), partition.status.parked
    park = expected if known is None else known.seconds
    back = expected if known is None or known.unpark_seconds is None else known.unpark_seconds
    return max(asked, TURN_PARTS * (park + back))


def _turn_words(turn: Turn) -> str:
    if turn.length <= turn.asked:
        return f"its turn of {format_duration(turn.asked)} was over, and others wait for its GPU"
    moves = format_duration(turn.length / TURN_PARTS)
    return (
        f"its turn was over, and others wait for its GPU; it lasted {format_duration(turn.length)}, not "
        f"{format_duration(turn.asked)}: parking it and bringing it back takes {moves}"
    )


def _held(job: GPUJob) -> bool:
    return job.spec.park or job.spec.suspend


def _stays(job: GPUJob, park: ParkRequest | None) -> bool:
    """Whether a parked program is to stay in main memory."""
    if park is None or _held(job):
        return True
    if park.reason == ParkCause.IDLE:
        return _asked(job) == park.asked
    return False


def _request(job: GPUJob, cause: ParkCause, message: str) -> ParkRequest:
    return ParkRequest(
        reason=cause, message=message, duration=job.spec.park_for, frozen=job.spec.park_frozen,
        asked=_asked(job),
    )  # fmt: skip


def _asked(job: GPUJob) -> str:
    """What its annotation says. It may be long, and is compared alone."""
    text = job.metadata.annotations.get(UNPARK_REQUESTED, "")
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""


def _back(park: ParkRequest | None, now: datetime) -> ParkRequest | None:
    return None if park is None else park.model_copy(update={"back_since": timestamp(now)})


def _refused_for(partition: GPUPartition, cause: ParkCause) -> bool:
    park = partition.spec.park
    return park is not None and park.reason == cause and refused(partition)


def _parks_at_end(job: GPUJob) -> bool:
    asked = job.spec.checkpoint
    return asked is not None and asked.on_expiry == "Park" and parkable(job)


def _until_preempted(view: JobView, partition: GPUPartition) -> float | None:
    """Seconds until it is to be parked since its share is taken back: so that it is free when it was to be."""
    taken = partition.status.reclaim
    if taken is None or not parkable(view.job):
        return None
    lead = max(0.0, expected_seconds(partition.status.memory_bytes) - parse_duration(partition.spec.grace_period))
    return (parse_timestamp(taken.at) - view.now).total_seconds() - lead


def _in_time(view: JobView, partition: GPUPartition) -> bool:
    """Whether parking is expected to be done when the share that is taken back was to be free."""
    taken = partition.status.reclaim
    if taken is None:
        return False
    left = (parse_timestamp(taken.at) - view.now).total_seconds() + parse_duration(partition.spec.grace_period)
    return left >= expected_seconds(partition.status.memory_bytes)


def _until_parked_at_end(view: JobView, partition: GPUPartition) -> float | None:
    """Seconds until it is to be parked since its lease ends; None where it is not, or where nobody knows."""
    status = partition.status
    if not _parks_at_end(view.job) or status.expires_at is None or status.started_at is None:
        return None
    longest = parse_duration(partition.spec.duration) / PART_OF_LEASE
    due = parse_timestamp(status.expires_at) - timedelta(seconds=min(expected_seconds(status.memory_bytes), longest))
    return (due - view.now).total_seconds()
