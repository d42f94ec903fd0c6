"""What the end of a lease adds to the use of its queue and user. It is written in the transaction of the end itself, so
that each lease counts once, whatever dies in between.
"""

from __future__ import annotations

from datetime import datetime

from cumulus.clock import parse_timestamp
from cumulus.errors import NotFound
from cumulus.machinery.cache import Reader, readable
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.partition import GPUPartition, GPUPartitionStatus, start_within
from cumulus.resources.quantity import parse_duration
from cumulus.resources.queue import Queue, QueueSpec
from cumulus.resources.queue_usage import QueueUsage, QueueUsageSpec, usage_name
from cumulus.resources.submitter import Submitter
from cumulus.scheduling.usage import PastLease, held_seconds, plain_name, with_ended
from cumulus.store.base import Key, Write
from cumulus.store.client import StoreClient, decode

OVERRUN = 60.0
"""Seconds after a lease's end and grace that its last processes may take, at most: no clock makes a use longer."""


def entry(
    client: StoreClient,
    reader: Reader,
    partition: GPUPartition,
    ended: GPUPartitionStatus,
    ended_at: str,
    now: datetime,
) -> Write | None:
    """The write that counts the lease of a partition which ends now; None where there is nothing to count. `ended_at`:
    when its node saw it end, on the clock that `activated_at` is of; "" where that is not known."""
    queue = partition.status.queue
    granted = ended.activated_at or partition.status.activated_at
    if not queue or not granted:
        return None
    user = Submitter.of(partition.metadata.annotations).name or partition.spec.user or ""
    spec = partition.spec
    longest = max(parse_duration(spec.duration), parse_duration(spec.renewal.maximum or "0s")) + start_within(spec)
    if spec.until is not None:
        longest = max(longest, (parse_timestamp(spec.until) - parse_timestamp(granted)).total_seconds())
    longest += parse_duration(spec.grace_period) + OVERRUN
    seconds = held_seconds(parse_timestamp(granted), parse_timestamp(ended_at) if ended_at else now, longest)
    owner = partition.job
    name = plain_name(owner.name) if owner is not None else ""
    lease = PastLease(partition.status.share or 0, seconds, parse_duration(spec.duration), name)
    found = readable(reader, Queue, "", queue)
    half_life = parse_duration((found.spec if found is not None else QueueSpec()).half_life)
    try:
        # Never of the cache: it may be older than the last entry.
        old = decode(QueueUsage, client.store.get(Key(QueueUsage.KIND, "", usage_name(queue, user))))
    except NotFound:
        made = QueueUsage(
            metadata=ObjectMeta(name=usage_name(queue, user)), spec=QueueUsageSpec(queue=queue, user=user)
        )
        return Write("create", made.replace(status=with_ended(made.status, lease, now, half_life)).to_json())
    return Write("status", old.replace(status=with_ended(old.status, lease, now, half_life)).to_json())
