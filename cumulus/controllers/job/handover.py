"""The attempt that follows, queued before the lease of the one that runs has ended: so the work goes on at once.

It is `status.next` until the one that runs has ended. It asks for shares of its own, in the queue as anybody: it stands
behind all who wait already. Nothing is started in them before the last attempt is seen to have ended. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from cumulus.backends.base import Observed
from cumulus.clock import parse_timestamp, timestamp
from cumulus.controllers.job.view import JobView, Replica
from cumulus.resources import job_partitions
from cumulus.resources.job import Attempt, GPUJobStatus
from cumulus.resources.partition import GPUPartition
from cumulus.resources.quantity import parse_duration
from cumulus.resources.reasons import AttemptReason, RetryRule, retry_of
from cumulus.resources.retries import requeues

GRANT_SECONDS = 2.0
"""What the queue, a binding and a lease take where a share is free."""

LONGEST = 35.0
"""Seconds before the end of a lease at the earliest: for so long a job may hold two shares. Before a save was measured
a program may end its whole grace period early, 30 s by default; and about as long a lease waits for its program, until
its time counts without it."""

PART_OF_LEASE = 2
"""Of a short lease, only the last such part."""

SETTLE_SECONDS = 5.0
"""A lease that lasts so much longer than an attempt may be queued ahead was lengthened after that."""


def early(view: JobView, held: Sequence[GPUPartition]) -> bool:
    """Whether the next attempt was queued for the end of a lease that lasts longer by now."""
    left = _left(view, held) if view.job.status.next is not None else None
    return left is not None and left > _longest(view) + SETTLE_SECONDS


def due(view: JobView, attempt: Attempt, held: Sequence[GPUPartition]) -> float | None:
    """Seconds until the next attempt is to be queued, 0 where it is time; None where none is to be, or where it is not
    known when the lease ends."""
    job = view.job
    if not requeues(job) or job.status.next is not None:
        return None
    if attempt.start_time is None or any(p.status.started_at is None for p in held):
        return None
    left, deadline = _left(view, held), view.deadline_left()
    if left is None or (deadline is not None and deadline <= left):
        return None
    return max(0.0, left - lead(view))


def lead(view: JobView) -> float:
    """How long before the end of its lease a job is queued for the next: it may end by itself once it has saved."""
    job = view.job
    saved, grace = job.status.checkpoint, parse_duration(job_partitions.grace(job))
    save = grace if saved is None else min(grace, 2 * saved.seconds)
    return min(save + GRANT_SECONDS, _longest(view))


def _longest(view: JobView) -> float:
    return min(LONGEST, parse_duration(view.job.spec.gpu.duration) / PART_OF_LEASE)


def _left(view: JobView, held: Sequence[GPUPartition]) -> float | None:
    """Seconds until the first of the leases ends; None where that is not known."""
    ends = [parse_timestamp(p.status.expires_at) for p in held if p.status.expires_at]
    return (min(ends) - view.now).total_seconds() if ends else None


def queued(view: JobView, status: GPUJobStatus) -> tuple[GPUJobStatus, tuple[GPUPartition, ...]]:
    """The status with the next attempt, and the partitions to make for it."""
    job, number = view.job, status.attempt_count + 1
    names = job_partitions.partition_names(job, number)
    following = Attempt(number=number, partitions=names, queue_time=timestamp(view.now))
    status = status.model_copy(update={"next": following})
    return status, job_partitions.partitions(job.replace(status=status), number)


def goes_on(reason: str) -> bool:
    """Whether a job whose attempt ended so, and that is not over, goes on in the attempt that was queued ahead."""
    return retry_of(reason) in (RetryRule.EXPIRED, RetryRule.SAVED)


def usable(view: JobView) -> bool:
    """Whether the shares that were asked for are there, or may still come."""
    following = view.job.status.next
    held = view.held(following)
    return (
        following is not None
        and len(held) == len(following.partitions)
        and not any(p.deleting or p.status.phase.ended for p in held)
    )


def certain(replicas: Sequence[Replica]) -> bool:
    """Whether every program of the attempt was seen to have ended: then its leases need not be over as well."""
    return all(
        isinstance(r, Observed) and r.state.finished and r.exit_code is not None and r.reason != AttemptReason.LOST
        for r in replicas
    )


def begun(status: GPUJobStatus, kept: int) -> GPUJobStatus:
    """With the next attempt as the one that lives."""
    following = status.next
    assert following is not None
    attempts = (*status.attempts, following)[-kept:]
    return status.model_copy(update={"attempts": attempts, "attempt_count": following.number, "next": None})


def withdrawn(status: GPUJobStatus) -> GPUJobStatus:
    """Without the next attempt, whose shares are given up."""
    return status.model_copy(update={"next": None})
