"""What `why` says of parking: of a job that is parked, and of parked programs in the way of one that waits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cumulus.resources.documents import condition
from cumulus.resources.key import Document
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.quantity import bytes_in_words
from cumulus.resources.reasons import JobCondition, JobReason
from cumulus.scheduling.explain import Explanation
from cumulus.scheduling.snapshot import Hold

_NAMED = 5


def of_parked(job: Document) -> str:
    """`is parked: its GPU did nothing for 20m; 12 GiB in main memory, until … at most.`"""
    said = condition(job, JobCondition.PARKED)
    return f"is parked: {said.get('message') or said.get('reason')}."


def of_refused(job: Document) -> Iterator[str]:
    """Why a running job could not be parked, where it is asked to be."""
    said = condition(job, JobCondition.PARKED)
    if said.get("reason") == JobReason.PARK_REFUSED:
        yield f"It could not be parked, and goes on: {said.get('message')}."


def of_idle(job: Document) -> Iterator[str]:
    said = condition(job, JobCondition.IDLE)
    if said.get("status") == "True":
        yield f"Of note: {said.get('message')}."


def in_the_way(found: Explanation, partitions: Iterable[GPUPartition]) -> Iterator[str]:
    """Of a job that waits: how many programs are parked on the devices that it waits for, and what would have to be
    parked so that it starts now."""
    by_key = {partition.key: partition for partition in partitions}
    places = {(hold.node, hold.device) for hold in found.blockers}
    parked = [
        p for p in by_key.values()
        if p.status.phase is PartitionPhase.PARKED and (p.status.node, p.status.device) in places
    ]  # fmt: skip
    if parked:
        size = bytes_in_words(sum(p.status.parked.memory_bytes for p in parked if p.status.parked is not None))
        what = "a parked program" if len(parked) == 1 else f"{len(parked)} parked programs"
        back = sum(p.waits for p in parked)
        waits = f", {back} of which {'waits' if back == 1 else 'wait'} to come back" if back else ""
        yield f"{what} of the devices it waits for {'is' if len(parked) == 1 else 'are'} in main memory ({size}){waits}"
    held = [by_key.get(hold.partition) if hold.partition is not None else None for hold in found.blockers]
    if held and all(map(_could_be_parked, found.blockers, held)):
        names = list(dict.fromkeys(hold.job for hold in found.blockers))
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield f"would start now if these could be parked: {', '.join(names[:_NAMED])}{more} (cumulus park JOB)"


def _could_be_parked(hold: Hold, partition: GPUPartition | None) -> bool:
    """Whether it is a running job's one lease. What its program is, its node alone knows."""
    if partition is None or not hold.job or partition.status.phase is not PartitionPhase.ACTIVE:
        return False
    return partition.spec.gang is not None and partition.spec.gang.size == 1 and partition.spec.sharing != "Concurrent"
