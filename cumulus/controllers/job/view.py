"""What one reconcile of a job has read: which replicas are alive, which shares are held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cumulus.backends.base import Observed, WorkloadState
from cumulus.clock import parse_timestamp
from cumulus.controllers.partition_facts import over_by_time
from cumulus.resources.job import Attempt, GPUJob
from cumulus.resources.job_checkpoint import SavedCheckpoint
from cumulus.resources.job_phase import RUNNING_PHASES, JobPhase
from cumulus.resources.meta import ATTEMPT_LABEL, REPLICA_LABEL, condition
from cumulus.resources.parking import Idle
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.quantity import parse_duration
from cumulus.resources.reasons import PartitionCondition, PartitionReason

LOST_MARGIN = 60.0
"""Seconds past a lease's end and grace after which a node that does not answer is taken to have ended it: more than
clocks differ. Until then, unreachable is not dead."""

STUCK_SECONDS = 60.0
"""How long an attempt that has not started waits for a node that does not answer."""

OVERRUN_MARGIN = 5.0
"""Seconds past a lease's end and grace after which a workload that its node should have ended is killed from here."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The workload's node does not answer: it may well run."""


@dataclass(frozen=True, slots=True)
class Vanished:
    """It was started once, and its backend does not know it any more."""


@dataclass(frozen=True, slots=True)
class StartRefused:
    """The backend will never start it."""

    message: str


Replica = Observed | Unknown | Vanished | StartRefused | None
"""One replica of the running attempt; None when it was not started as far as is known."""


@dataclass(frozen=True, slots=True)
class Turn:
    """That of a job on its GPU, in seconds."""

    asked: float
    """How long its queue lets it last."""
    length: float
    """How long it lasts at least, so that moving programs costs no more than a tenth of it."""
    had: float
    """How long it has lasted."""
    waited_for: bool
    """Whether it is over and somebody waits for the GPU."""


@dataclass(frozen=True, slots=True)
class JobView:
    """What a plan is made from. `partitions` are all that the job owns, `replicas` those of the running attempt."""

    job: GPUJob
    partitions: Sequence[GPUPartition]
    replicas: Sequence[Replica]
    now: datetime
    lost_nodes: frozenset[str] = frozenset()
    """Nodes that are not Ready, or not there."""
    checkpoint_uri: str = ""
    """Where the job's checkpoints are kept beyond its nodes."""
    phases: Mapping[str, str] = field(default_factory=dict)
    """Of the jobs that are there of those that it waits for."""
    idle: Idle | None = None
    """What happens to it if its GPUs do nothing, as it or its queue says."""
    idle_since: datetime | None = None
    """Since when all its GPUs do nothing; None where one works, or where nobody knows."""
    turn: Turn | None = None
    """None where its queue knows no turns, or where it has no lease that runs."""

    def held(self, attempt: Attempt | None) -> list[GPUPartition]:
        """The partitions of the attempt that are there."""
        names = set(attempt.partitions) if attempt is not None else set()
        return [partition for partition in self.partitions if partition.metadata.name in names]

    def alive(self, held: Sequence[GPUPartition]) -> list[int]:
        """The replicas that may still run."""
        return [r for r, replica in enumerate(self.replicas) if alive(replica) and not self._replica_lost(held, r)]

    def deadline_left(self) -> float | None:
        """Seconds until spec.activeDeadline is over; None where its clock does not run."""
        spec, status = self.job.spec, self.job.status
        if spec.active_deadline is None or status.start_time is None:
            return None
        age = (self.now - parse_timestamp(status.start_time)).total_seconds()
        return parse_duration(spec.active_deadline) - age

    def may_hold_a_workload(self, partition: GPUPartition) -> bool:
        """Whether a workload of an earlier attempt could still run in this partition."""
        if attempt_of(partition) > self.job.status.attempt_count:
            # Made for an attempt that was queued ahead, and has started nothing.
            return False
        if partition.status.phase.ended or partition.status.phase is PartitionPhase.PENDING:
            return False
        if partition.status.phase is PartitionPhase.BOUND and partition.status.node in self.lost_nodes:
            # Workloads start only once all partitions are Active, and this one never was.
            return False
        return not self.lost(partition)

    def lost(self, partition: GPUPartition) -> bool:
        """Whether the lease was over long ago on a node that does not answer: the node has ended it alone."""
        return partition.status.node in self.lost_nodes and over_by_time(partition, self.now, LOST_MARGIN)

    def stuck_left(self, partition: GPUPartition) -> float | None:
        """Seconds for which an attempt still waits for a lease of a node that fell silent; None where it did not."""
        if partition.status.phase is not PartitionPhase.BOUND or partition.status.node not in self.lost_nodes:
            return None
        bound = condition(partition.status.conditions, PartitionCondition.BOUND)
        if bound is None or not bound.last_transition_time:
            return STUCK_SECONDS
        return STUCK_SECONDS - (self.now - parse_timestamp(bound.last_transition_time)).total_seconds()

    def _replica_lost(self, held: Sequence[GPUPartition], replica: int) -> bool:
        """Whether the replica's node is gone for good, or silent until long after its leases were over."""
        mine = shares_of(held, replica)
        return bool(mine) and all(
            self.lost(p) or (p.status.phase is PartitionPhase.FAILED and p.status.node in self.lost_nodes) for p in mine
        )


def alive(replica: Replica) -> bool:
    """Whether it may run. One whose node does not answer may."""
    return isinstance(replica, Unknown) or (isinstance(replica, Observed) and not replica.state.finished)


def runs(replica: Replica, phase: JobPhase) -> bool:
    """Whether it runs, as far as is known: one whose node has fallen silent goes on as it was seen last."""
    if isinstance(replica, Unknown):
        return phase in RUNNING_PHASES or phase is JobPhase.PARKED
    return isinstance(replica, Observed) and replica.state is not WorkloadState.STARTING


def shares_of(held: Sequence[GPUPartition], replica: int) -> list[GPUPartition]:
    """The partitions of one replica."""
    return [partition for partition in held if partition.metadata.labels.get(REPLICA_LABEL) == str(replica)]


def attempt_of(partition: GPUPartition) -> int:
    """The number of the attempt that it was made for."""
    return int(partition.metadata.labels.get(ATTEMPT_LABEL, "0"))


def being_ended(partition: GPUPartition) -> bool:
    """Whether its node is ending its processes."""
    ended = condition(partition.status.conditions, PartitionCondition.ENDED)
    return ended is not None and ended.reason == PartitionReason.ENDING


def checkpoint_time(replicas: Sequence[Replica]) -> str | None:
    """When the attempt's checkpoint was written last, "" where there is none, None where nobody could see it."""
    seen = [r.checkpoint_at for r in replicas if isinstance(r, Observed) and r.checkpoint_at is not None]
    return max(seen, default=None)


def saved_checkpoint(view: JobView) -> SavedCheckpoint | None:
    """The job's newest checkpoint, as far as anybody has seen."""
    seen = [
        SavedCheckpoint(
            step=found.step, time=found.time, size=found.size, seconds=found.seconds, node=replica.node,
            path=found.path, uri=view.checkpoint_uri, upload_error=found.upload_error,
            uploaded_step=found.uploaded if found.uploaded >= 0 else None,
        )
        for replica in view.replicas if isinstance(replica, Observed) and (found := replica.checkpoint) is not None
    ]  # fmt: skip
    known = view.job.status.checkpoint
    newest = max(seen, key=lambda each: each.time, default=None)
    return known if newest is None or (known is not None and known.time > newest.time) else newest
