"""What every controller may conclude about a partition from its object alone."""

from __future__ import annotations

from datetime import datetime, timedelta

from cumulus.clock import parse_timestamp
from cumulus.resources.partition import GPUPartition
from cumulus.resources.quantity import parse_duration


def over_by_time(partition: GPUPartition, now: datetime, margin: float) -> bool:
    """Whether the lease and its grace are over by the clock, with `margin` seconds to spare, whatever the node says:
    the node ends its leases alone, also when cut off. False for a lease whose end is not known."""
    expires_at = partition.status.expires_at
    if expires_at is None:
        return False
    end = parse_timestamp(expires_at) + timedelta(seconds=parse_duration(partition.spec.grace_period) + margin)
    return now > end
