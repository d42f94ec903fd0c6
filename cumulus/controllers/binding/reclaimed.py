"""Shares that a cycle takes back, as it is written on their partitions, and what people are told of it.

The job's controller carries it out, or where it does not the partition's. Until the time for that has come, the mark
goes again where nobody waits for the share any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cumulus.clock import parse_timestamp, short_timestamp, timestamp
from cumulus.machinery.cache import Reader, readable
from cumulus.machinery.recorder import EventRecorder
from cumulus.resources.job import GPUJob
from cumulus.resources.key import Key
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.resources.reasons import EventReason
from cumulus.resources.reclaim import Reclaim, words
from cumulus.scheduling.reclaim import Victim, spared
from cumulus.scheduling.snapshot import Snapshot
from cumulus.store.base import Write

WriteAll = Callable[..., bool]


class ReclaimWriter:
    def __init__(self, reader: Reader, write: WriteAll, recorder: EventRecorder | None, component: str) -> None:
        self._reader = reader
        self._write = write
        self._recorder = recorder
        self._component = component

    def write(self, victims: Sequence[Victim], snapshot: Snapshot) -> bool:
        """Say on each partition for whom it is taken back, or that it is not any more. False where one changed
        meanwhile."""
        changes = [*_asked(victims), *((key, None) for key in spared(snapshot))]
        found = [(self._partition(key), said) for key, said in changes]
        wanted = [(p, said) for p, said in found if p is not None and p.status.reclaim != said]
        wanted = [(p, said) for p, said in wanted if p.status.phase is PartitionPhase.ACTIVE]
        if not wanted:
            return True
        writes = [
            Write("status", p.replace(status=p.status.model_copy(update={"reclaim": said})).to_json())
            for p, said in wanted
        ]
        if not self._write(writes, alone=len(writes) == 1):
            return False
        told: set[str] = set()
        for partition, said in wanted:
            owner = partition.job
            if owner is not None and owner.uid not in told:
                told.add(owner.uid)
                self._tell(partition, owner.name, said)
        return True

    def _partition(self, key: Key) -> GPUPartition | None:
        return readable(self._reader, GPUPartition, key.namespace, key.name)

    def _tell(self, partition: GPUPartition, name: str, said: Reclaim | None) -> None:
        job = readable(self._reader, GPUJob, partition.metadata.namespace or "", name)
        if self._recorder is None or job is None:
            return
        reason, message = EventReason.KEPT_AFTER_ALL, "nobody needs its share any more: it keeps it"
        if said is not None:
            how = "it is asked for a checkpoint first" if job.spec.checkpoint is not None else "it begins anew later"
            message = f"{words(said)}, from {short_timestamp(parse_timestamp(said.at))} on; {how}"
            reason = EventReason.TAKEN_BACK
        self._recorder.record(job, "Normal", reason, message, component=self._component)


def _asked(victims: Sequence[Victim]) -> Iterator[tuple[Key, Reclaim]]:
    for hold, at, gang in victims:
        if hold.partition is not None:
            queue = gang.queue or DEFAULT_QUEUE
            yield hold.partition, Reclaim(at=timestamp(at), gang=gang.name, job=gang.job, queue=queue)
