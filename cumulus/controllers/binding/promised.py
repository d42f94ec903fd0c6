"""What a cycle promised, as it is written on partitions, and what people are told where a promise moves later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cumulus.clock import short_timestamp, timestamp
from cumulus.machinery.cache import Reader, readable
from cumulus.machinery.recorder import EventRecorder
from cumulus.resources.job import GPUJob
from cumulus.resources.key import Key
from cumulus.resources.partition import GPUPartition, Promise
from cumulus.resources.reasons import EventReason
from cumulus.scheduling.promises import PromiseChange


def by_partition(moved: Iterable[PromiseChange]) -> Mapping[Key, Promise | None]:
    """What is to be written on each partition."""
    found: dict[Key, Promise | None] = {}
    for one in moved:
        seats = {seat.partition: seat for seat in one.seats}
        for member in one.gang.members:
            seat = seats.get(member.partition)
            promise = None
            if seat is not None and one.start_by is not None:
                promise = Promise(
                    start_by=timestamp(one.start_by), node=seat.node, device=seat.device, within_quota=one.sure
                )
            found[member.partition] = promise
    return found


def tell_of_late(moved: Iterable[PromiseChange], reader: Reader, recorder: EventRecorder, component: str) -> None:
    """Events for those whose start moves later, with what moves it."""
    for one in moved:
        if one.cause is None:
            continue
        key = one.gang.members[0].partition
        partition = readable(reader, GPUPartition, key.namespace, key.name)
        owner = partition.job if partition is not None else None
        job = readable(reader, GPUJob, key.namespace, owner.name) if owner is not None else None
        message = f"{_change(one)}: {one.cause.message}"
        for about in (partition, job):
            if about is not None:
                recorder.record(about, "Warning", EventReason.PROMISE_MOVED, message, component=component)


def _change(one: PromiseChange) -> str:
    """starts by 15:32 now, not by 15:10."""
    before = "" if one.gang.promised is None else short_timestamp(one.gang.promised)
    if one.start_by is None:
        return f"the promise to start by {before} does not hold any more"
    return f"starts by {short_timestamp(one.start_by)} at the latest, not by {before}"
