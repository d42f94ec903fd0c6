"""Why the running attempt of a job must end, or has ended, and what that comes to by what the attempt did before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cumulus.backends.base import Observed, WorkloadState
from cumulus.backends.exit_codes import SAVED
from cumulus.clock import parse_timestamp
from cumulus.controllers.job import parking
from cumulus.controllers.job.outcome import Cause
from cumulus.controllers.job.view import (
    OVERRUN_MARGIN,
    JobView,
    Replica,
    StartRefused,
    Vanished,
    shares_of,
)
from cumulus.controllers.partition_facts import over_by_time
from cumulus.resources import job_partitions, reclaim
from cumulus.resources.job import Attempt, GPUJob
from cumulus.resources.meta import condition
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.quantity import format_duration
from cumulus.resources.reasons import AttemptReason, JobCondition, PartitionCondition, PartitionReason

_GIVEN_BACK = (AttemptReason.STOPPED, AttemptReason.LEASE_RELEASED)
"""Ends of replicas that tell nothing where something else is known to have ended the attempt."""

_OUTSIDE: tuple[str, ...] = (
    AttemptReason.LEASE_EXPIRED,
    AttemptReason.LOST,
    AttemptReason.LEASE_RELEASED,
    AttemptReason.STOPPED,
)
"""Ends of replicas that are not their own doing, the one that says most first."""

_OF_FAILED: dict[str, AttemptReason] = {
    **{reason: AttemptReason.NODE_LOST for reason in PartitionReason if reason.node_lost},
    PartitionReason.OVERUSED: AttemptReason.OVERUSED,
    PartitionReason.DEVICE_LOST: AttemptReason.LOST,
}
"""What the end of a partition that failed means for its attempt; else its lease was refused."""


def cause(view: JobView, attempt: Attempt, held: Sequence[GPUPartition]) -> Cause | None:
    """Why the attempt must end, or has ended; None while it may go on. What the job did itself comes first."""
    replicas = view.replicas
    if any(_ended_by(partition) == PartitionReason.UNPARK_FAILED for partition in held):
        return _not_brought_back(view.job)
    done = [r for r in replicas if isinstance(r, Observed) and _did_its_work(view.job, r)]
    if replicas and len(done) == len(replicas):
        return Cause(AttemptReason.COMPLETED, next((r.message for r in done if r.message), ""), exit_code=0)
    refused = next((r for r in replicas if isinstance(r, StartRefused)), None)
    if refused is not None:
        return Cause(AttemptReason.START_REFUSED, refused.message)
    # What failed on its way back was lost, or came back before: its node says which in a moment.
    failed = None if _failed_on_its_way_back(view, held) else _failure(replicas, held)
    if failed is not None and failed.reason not in _GIVEN_BACK:
        return failed
    outside = _from_outside(view, attempt, held)
    if outside is None or failed is None:
        return outside or failed
    return replace(outside, exit_code=failed.exit_code)


def _not_brought_back(job: GPUJob) -> Cause:
    """A parked program that its node could not bring back is lost, however its processes ended: it did no wrong."""
    saved = job.status.checkpoint
    last = "it had saved nothing" if saved is None else f"its last checkpoint is step {saved.step}"
    return Cause(AttemptReason.LOST, f"it was parked, and could not be brought back to its GPU; {last}")


def _failed_on_its_way_back(view: JobView, held: Sequence[GPUPartition]) -> bool:
    """Whether it failed while its partition is said to be on its way back, which may be over by now."""
    unparking = any(partition.status.phase is PartitionPhase.UNPARKING for partition in held)
    return unparking and any(isinstance(r, Observed) and _failed_alone(r) for r in view.replicas)


def _failed_alone(replica: Observed) -> bool:
    """Whether nobody had asked it to end."""
    return replica.state is WorkloadState.FAILED and replica.reason in ("", AttemptReason.ERROR, AttemptReason.LOST)


def judged(job: GPUJob, attempt: Attempt, cause: Cause, checkpoint: str | None) -> Cause:
    """What the cause of an attempt's end comes to, by what it did before."""
    if cause.reason == AttemptReason.LEASE_EXPIRED and attempt.start_time is None:
        message = f"its lease of {job.spec.gpu.duration} was over before its program could start"
        return Cause(AttemptReason.EXPIRED_BEFORE_START, message)
    return _saved_nothing(job, attempt, _saved(job, cause, checkpoint), checkpoint)


def _saved_nothing(job: GPUJob, attempt: Attempt, cause: Cause, checkpoint: str | None) -> Cause:
    """`cause`, which says so where a lease was over, the job goes on, and nothing of this attempt was saved: else it
    may begin anew in each lease for ever, and nobody sees why."""
    spec = job.spec.checkpoint
    if (
        cause.reason != AttemptReason.LEASE_EXPIRED
        or cause.exit_code in (0, SAVED)
        or spec is None
        or not spec.requeues
        or attempt.start_time is None
        or checkpoint is None
        or (checkpoint and parse_timestamp(checkpoint) >= parse_timestamp(attempt.start_time))
    ):
        return cause
    limit = f"a save has to fit into checkpoint.gracePeriod ({job_partitions.grace(job)})"
    hint = f"it saved nothing in its checkpoint directory: {limit}"
    return replace(cause, message=f"{cause.message}; {hint}" if cause.message else hint)


def _did_its_work(job: GPUJob, replica: Observed) -> bool:
    """After the stop signal exit code 0 may also mean: saved. Of a call it means that the function returned."""
    if replica.state is WorkloadState.SUCCEEDED:
        return True
    checkpoint = job.spec.checkpoint
    means_done = checkpoint is None or checkpoint.zero_means_done or job.spec.call is not None
    signalled = replica.reason in (AttemptReason.STOPPED, AttemptReason.LEASE_EXPIRED)
    return signalled and replica.exit_code == 0 and means_done


def _failure(replicas: Sequence[Replica], held: Sequence[GPUPartition]) -> Cause | None:
    """The replica that failed first of its own; one that was ended from outside counts only where there is no other."""
    failed = [(r, _refined(r, held)) for r in replicas if isinstance(r, Observed) and r.state is WorkloadState.FAILED]
    if not failed:
        vanished = any(isinstance(r, Vanished) for r in replicas)
        return Cause(AttemptReason.LOST, "the backend lost it") if vanished else None
    first, reason = min(failed, key=lambda one: _rank(*one))
    who = f"replica {first.replica}: " if len(replicas) > 1 else ""
    return Cause(reason, f"{who}{first.message}" if first.message else who.removesuffix(": "), first.exit_code)


def _rank(replica: Observed, reason: str) -> tuple[int, bool, str, int]:
    """Of those that were ended from outside, the one that saved speaks for the gang."""
    outside = _OUTSIDE.index(reason) if reason in _OUTSIDE else -1
    return outside, outside >= 0 and replica.exit_code != SAVED, replica.finished_at, replica.replica


def _refined(replica: Observed, held: Sequence[GPUPartition]) -> str:
    """The reason of a failed replica, with what is known of its lease: a lease that ended first is the reason."""
    reason = replica.reason or AttemptReason.ERROR
    if reason in (AttemptReason.STOPPED, AttemptReason.START_ERROR):
        mine = shares_of(held, replica.replica)
        if any(_ended_by(p) == PartitionReason.OVERUSED for p in mine):
            return AttemptReason.OVERUSED
        if any(p.status.phase is PartitionPhase.EXPIRED for p in mine):
            return AttemptReason.LEASE_EXPIRED
        if any(p.status.phase.ended for p in mine):
            return AttemptReason.LEASE_RELEASED
    return reason


def _from_outside(view: JobView, attempt: Attempt, held: Sequence[GPUPartition]) -> Cause | None:
    """Why it may not go on, whatever it does."""
    held_still = len(held) == 1 and parking.holds_still(view, attempt, held[0])
    if view.job.spec.suspend and not held_still:
        return Cause(AttemptReason.SUSPENDED)
    if view.job.spec.park and attempt.start_time is None:
        return Cause(AttemptReason.SUSPENDED, "there was no program yet that could be parked")
    left = view.deadline_left()
    if left is not None and left <= 0:
        return Cause(AttemptReason.DEADLINE, "activeDeadline was over")
    for partition in held:
        taken = partition.status.reclaim
        parks = len(held) == 1 and parking.yields(view, attempt, partition)
        if taken is not None and parse_timestamp(taken.at) <= view.now and not parks:
            return Cause(AttemptReason.PREEMPTED, reclaim.words(taken))
    if (released := _released_for_idleness(view, attempt, held)) is not None:
        return released
    return _lost_share(view, attempt, held)


def _released_for_idleness(view: JobView, attempt: Attempt, held: Sequence[GPUPartition]) -> Cause | None:
    """Whether it is ended since its GPUs did nothing; once that has begun, what it does then changes nothing."""
    said = condition(view.job.status.conditions, JobCondition.IDLE)
    if said is not None and said.status == "True" and said.reason == AttemptReason.IDLE:
        return Cause(AttemptReason.IDLE, said.message)
    seconds = parking.idle_too_long(view, attempt, held, "Release")
    if seconds is None or any(p.status.phase.parked for p in held):
        return None
    return Cause(AttemptReason.IDLE, f"its GPU did nothing for {format_duration(seconds)}")


def _lost_share(view: JobView, attempt: Attempt, held: Sequence[GPUPartition]) -> Cause | None:
    """What happened to the partitions that the attempt cannot survive."""
    for partition in held:
        name, status = partition.metadata.name, partition.status
        if status.phase is PartitionPhase.FAILED:
            return _failed_share(partition)
        if status.phase is PartitionPhase.EXPIRED:
            return Cause(AttemptReason.LEASE_EXPIRED)
        if status.phase is PartitionPhase.RELEASED or partition.deleting:
            return Cause(AttemptReason.LEASE_RELEASED, f"{name} was released")
        if view.lost(partition):
            return Cause(AttemptReason.NODE_LOST, f"{status.node} did not answer before the lease was over")
        if over_by_time(partition, view.now, OVERRUN_MARGIN):
            return Cause(AttemptReason.LEASE_EXPIRED)
        stuck = view.stuck_left(partition)
        if stuck is not None and stuck <= 0:
            return Cause(AttemptReason.NODE_UNREACHABLE, f"{status.node} does not answer")
    if len(held) < len(attempt.partitions):
        return Cause(AttemptReason.LEASE_RELEASED, "a partition was deleted")
    return None


def _failed_share(partition: GPUPartition) -> Cause:
    ended = condition(partition.status.conditions, PartitionCondition.ENDED)
    if ended is None:
        return Cause(AttemptReason.GRANT_FAILED, partition.metadata.name)
    reason = _OF_FAILED.get(ended.reason, AttemptReason.GRANT_FAILED)
    return Cause(reason, f"{partition.metadata.name}: {ended.message}")


def _ended_by(partition: GPUPartition) -> str:
    """The reason of its end; "" while it has none."""
    ended = condition(partition.status.conditions, PartitionCondition.ENDED)
    return ended.reason if ended is not None and ended.status == "True" else ""


def _saved(job: GPUJob, cause: Cause, checkpoint: str | None) -> Cause:
    """`cause`, or what exit code 75 of a job with a checkpoint makes of it: Saved, or NotSaved for the second in a row
    without a newer `checkpoint` (its time, "" where there is none, None where nobody could see it)."""
    spec = job.spec.checkpoint
    if (
        cause.exit_code != SAVED
        or spec is None
        or not spec.requeues
        or cause.reason in (AttemptReason.SUSPENDED, AttemptReason.DEADLINE, AttemptReason.PREEMPTED)
    ):
        return cause
    if spec.path is None:
        # It was given a place, and may well save elsewhere.
        checkpoint = checkpoint or None
    saved = replace(cause, reason=AttemptReason.SAVED)
    before = job.status.attempts[-2] if len(job.status.attempts) > 1 else None
    if before is None or before.exit_code != SAVED:
        return saved
    if checkpoint is None and cause.reason != AttemptReason.ERROR:
        # It was told to end, as it is once in each lease: nothing spins, and what nobody can see is taken on trust.
        return saved
    if checkpoint and checkpoint > (before.checkpoint_time or ""):
        return saved
    message = f"no newer checkpoint than that of attempt {before.number}"
    return replace(cause, reason=AttemptReason.NOT_SAVED, message=message)
