"""What the replicas of an attempt did, and which of them speaks for it. Pure; used by `job_plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cumulus.backends.base import Observed, State
from cumulus.backends.exit_codes import SAVED
from cumulus.controllers.job.outcome import Cause
from cumulus.resources.job import GPUJob
from cumulus.resources.meta import REPLICA_LABEL
from cumulus.resources.partition import GPUPartition, PartitionPhase


@dataclass(frozen=True, slots=True)
class Unknown:
    """The workload's node does not answer: it may well run."""


@dataclass(frozen=True, slots=True)
class Vanished:
    """It was started once, and its backend does not know it any more."""


@dataclass(frozen=True, slots=True)
class RefusedStart:
    """The backend will never start it."""

    message: str


Replica = Observed | Unknown | Vanished | RefusedStart | None
"""One replica of the running attempt; None when it was not started as far as is known."""


def failure(replicas: Sequence[Replica], held: Sequence[GPUPartition]) -> Cause | None:
    """The replica that failed first of its own; one that was ended from outside counts only where there is no other."""
    failed = [r for r in replicas if isinstance(r, Observed) and r.state is State.FAILED]
    vanished = any(isinstance(r, Vanished) for r in replicas)
    causes = [
        (_OUTSIDE.index(reason) if reason in _OUTSIDE else -1, _rank(reason, r), r.finished_at, r.replica, reason, r)
        for r in failed
        for reason in [_refined(r, held)]
    ]
    if not causes:
        return Cause("Lost", "the backend lost it") if vanished else None
    _, _, _, number, reason, first = min(causes, key=lambda cause: cause[:4])
    who = f"replica {number}: " if len(replicas) > 1 else ""
    return Cause(reason, f"{who}{first.message}" if first.message else who.removesuffix(": "), first.exit_code)


_OUTSIDE = ("LeaseExpired", "Lost", "LeaseReleased", "Stopped")


def _rank(reason: str, replica: Observed) -> bool:
    """Of those that were ended from outside, the one that saved speaks for the gang."""
    return reason in _OUTSIDE and replica.exit_code != SAVED


def done(job: GPUJob, replica: Observed) -> bool:
    """Whether the replica did its work. After the stop signal exit code 0 may also mean: saved."""
    if replica.state is State.SUCCEEDED:
        return True
    checkpoint = job.spec.checkpoint
    means_done = checkpoint is None or checkpoint.exit_zero == "Succeeded"
    return replica.reason in ("Stopped", "LeaseExpired") and replica.exit_code == 0 and means_done


def checkpoint_time(replicas: Sequence[Replica]) -> str | None:
    """When the attempt's checkpoint was written last, "" where there is none, None where nobody could see it."""
    seen = [r.checkpoint_at for r in replicas if isinstance(r, Observed) and r.checkpoint_at is not None]
    return max(seen, default=None)


def _refined(replica: Observed, held: Sequence[GPUPartition]) -> str:
    """The reason of a failed replica, with what is known of its lease: a lease that ended first is the reason."""
    reason = replica.reason or "Error"
    if reason in ("Stopped", "StartError"):
        mine = shares_of(held, replica.replica)
        if any(p.status.phase is PartitionPhase.EXPIRED for p in mine):
            return "LeaseExpired"
        if any(p.status.phase.ended for p in mine):
            return "LeaseReleased"
    return reason


def shares_of(held: Sequence[GPUPartition], replica: int) -> list[GPUPartition]:
    """The partitions of one replica."""
    return [partition for partition in held if partition.metadata.labels.get(REPLICA_LABEL) == str(replica)]
