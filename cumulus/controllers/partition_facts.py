"""What every controller may conclude about a partition from its object alone."""

from __future__ import annotations

from datetime import datetime, timedelta

from cumulus.chronos.contract import Lease
from cumulus.clock import parse_timestamp
from cumulus.resources.meta import is_true
from cumulus.resources.partition import GPUPartition
from cumulus.resources.quantity import parse_duration
from cumulus.resources.reasons import PartitionCondition


def over_by_time(partition: GPUPartition, now: datetime, margin: float) -> bool:
    """Whether the lease and its grace are over by the clock, with `margin` seconds to spare, whatever the node says:
    the node ends its leases alone, also when cut off. False for a lease whose end is not known."""
    expires_at = partition.status.expires_at
    if expires_at is None:
        return False
    end = parse_timestamp(expires_at) + timedelta(seconds=parse_duration(partition.spec.grace_period) + margin)
    return now > end


def overuse_news(partition: GPUPartition, lease: Lease) -> bool:
    """Whether the lease is overused and the partition does not say so, or the reverse."""
    return is_true(partition.status.conditions, PartitionCondition.OVERUSED) != bool(lease.held_bytes)
