"""What every controller may conclude about a partition from its object alone."""

from __future__ import annotations

from datetime import datetime, timedelta

from cumulus.clock import parse_timestamp
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.quantity import parse_duration


def over_by_time(partition: GPUPartition, now: datetime, margin: float) -> bool:
    """Whether the lease and its grace are over by the clock, with `margin` seconds to spare, whatever the node says:
    the node ends its leases alone, also when cut off. False for a lease whose end is not known."""
    end = latest_end(partition)
    return end is not None and now > end + timedelta(seconds=parse_duration(partition.spec.grace_period) + margin)


def latest_end(partition: GPUPartition) -> datetime | None:
    """When its lease ends at the latest, by what its node may have been asked for: also where no answer came, as where
    the node was cut off then. A program that waits in main memory lives on after the end of its lease."""
    spec, status = partition.spec, partition.status
    if status.expires_at is None:
        return None
    end = parse_timestamp(status.expires_at)
    if _may_be_parked(partition) and spec.park is not None:
        return end + timedelta(seconds=parse_duration(spec.park.duration))
    if status.phase is PartitionPhase.UNPARKING and status.parked is not None and status.parked.until is not None:
        # Once its node has answered, its end is another than that of its time in main memory.
        answered = parse_timestamp(status.parked.until) != end
        return end if answered else end + timedelta(seconds=parse_duration(spec.duration))
    if status.phase is PartitionPhase.ACTIVE and spec.until is not None:
        return max(end, parse_timestamp(spec.until))
    return end


def _may_be_parked(partition: GPUPartition) -> bool:
    """Whether its node may have parked its program, though nobody here has seen that yet."""
    park, status, generation = partition.spec.park, partition.status, partition.metadata.generation
    if park is None or status.phase is not PartitionPhase.ACTIVE or status.park_refused == generation:
        return False
    withdrawn = park.back_since is not None and status.observed_generation == generation
    return not withdrawn or status.park_asked is not None
