"""Says why a job or partition is not running: what blocks it, who holds that and until when, who is ahead.

Asks `scheduling.explain` on a snapshot of the store: the same pass that the scheduler makes, so the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from cumulus.answers.objects import Why
from cumulus.answers.queue import Line
from cumulus.clock import Clock, to_the_second
from cumulus.errors import InvalidObject, NotFound, UsageError
from cumulus.resources import job_partitions, reclaim, reruns, retries
from cumulus.resources.awaited_jobs import index_of, key_of_awaited, phase_of_index
from cumulus.resources.columns import age, until
from cumulus.resources.documents import condition, lookup
from cumulus.resources.job import GPUJob
from cumulus.resources.job_after import broken_words, progress, waiting_words
from cumulus.resources.job_phase import RUNNING_PHASES, JobPhase
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.kinds.gpujob import call_outcome, prefetched, unsaved
from cumulus.resources.meta import Resource
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.quantity import format_duration
from cumulus.resources.query import Query
from cumulus.resources.queue import Queue
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.resources.queue_usage import QueueUsage
from cumulus.resources.reasons import JobCondition, JobReason, PartitionCondition
from cumulus.resources.reclaim import Reclaim
from cumulus.resources.registry import BY_NAME
from cumulus.resources.reservation import Reservation
from cumulus.scheduling import linking
from cumulus.scheduling.explain import Explanation, explain
from cumulus.scheduling.policy import Policies
from cumulus.scheduling.snapshot import Snapshot, build
from cumulus.service import parking_words
from cumulus.service.identity import Identity
from cumulus.service.line import line
from cumulus.service.objects import Objects
from cumulus.service.placement import policies
from cumulus.service.redaction import Redaction
from cumulus.service.wait_conditions import phase_summary
from cumulus.store.base import Store
from cumulus.store.client import decode

R = TypeVar("R", bound=Resource)
_BETWEEN = (JobReason.BACKING_OFF, JobReason.RELEASING)
"""Why a job waits between two attempts."""


class Explanations:
    def __init__(self, store: Store, clock: Clock, objects: Objects, redaction: Redaction, home: Path) -> None:
        self._store = store
        self._redaction = redaction
        self._home = home
        self._clock = clock
        self._objects = objects

    def why(self, identity: Identity, key: Key) -> Why:
        """For a job or partition in whatever state. Raises NotFound; InvalidObject where it is damaged."""
        if not BY_NAME[key.kind].waits:
            jobs = "ask for a job; `cumulus describe` lists those of an array or a cron job"
            raise UsageError(f"only jobs and partitions wait, not a {key.kind}", hint=jobs)
        document = self._objects.get(identity, key)
        asked = self._asked(identity, document)
        return Why(tuple(asked.answer()), _over(document), tuple(asked.damaged))

    def _asked(self, identity: Identity, document: Document) -> _Question:
        return _Question(self._store, document, self._reading(identity))

    def _reading(self, identity: Identity) -> _Reading:
        tell = partial(self._redaction.problem, identity)
        ids = self._redaction.sees(identity, "")
        return _Reading(self._store, self._clock.now(), tell, self._home, ids=ids)

    def line(self, identity: Identity, queue: str = "") -> Line:
        """Who waits in the queue, or in all of them, and who holds shares. Everybody may ask. Raises NotFound."""
        read = self._reading(identity)
        known = {found.metadata.name for found in read.all(Queue)}
        if queue and queue not in known and not (known and queue == DEFAULT_QUEUE):
            raise NotFound(f"there is no queue {queue}", hint="see `cumulus get queues`")
        snapshot = read.snapshot()
        return line(snapshot, read.policies(snapshot), queue, asks=identity.name, ids=read.ids)

    def forecast(self, identity: Identity, document: Document) -> str:
        """When a job that is not made yet would start, in one sentence. Raises what its creation would raise."""
        made = self._objects.create(identity, document, dry_run=True)
        job = decode(GPUJob, made)
        read = self._reading(identity)
        if others := read.other_jobs(job):
            return f"waits {others}".removesuffix(".")
        wanted = _to_be(job)
        snapshot = read.snapshot(wanted)
        found = explain(snapshot, wanted[0].key, read.policies(snapshot))
        return "" if found is None else found.headline

    def waiting_lines(self, identity: Identity, document: Document, damaged: list[InvalidObject]) -> tuple[str, ...]:
        """Of a pending job or partition: when it starts, who is in the way, and each node's reason; or why it is not in
        the queue. `damaged` gets the stored objects that had to be left out.

        Raises InvalidObject where it is damaged itself.
        """
        asked = self._asked(identity, document)
        if asked.of_job and (held := asked.held_back()):
            return (f"it {held}",)
        found = asked.waiting()
        damaged += asked.damaged
        return tuple(found.lines()) if found is not None else ()


class _Reading:
    """What the scheduler would see `now`. `tell` words what is wrong with an object; `ids`: whether leases that were
    made on a node are named."""

    def __init__(
        self, store: Store, now: datetime, tell: Callable[[Document, InvalidObject], InvalidObject], home: Path, *,
        ids: bool,
    ) -> None:  # fmt: skip
        self.ids = ids
        self.now = now
        self.damaged: list[InvalidObject] = []
        self._home = home
        self._store = store
        self._tell = tell

    def all(self, model: type[R]) -> list[R]:
        """Of a kind, without those that are damaged."""
        found = []
        for document in self._store.list(Query(model.KIND)).items:
            try:
                found.append(decode(model, document))
            except InvalidObject as error:
                self.damaged.append(self._tell(document, error))
        return found

    def snapshot(self, more: Sequence[GPUPartition] = (), partitions: Sequence[GPUPartition] | None = None) -> Snapshot:
        """With partitions that are not stored yet; `partitions`: those that are, where they were read already."""
        there = self.all(GPUPartition) if partitions is None else partitions
        snapshot = build(self.all(GPUNode), [*there, *more], self.now)
        if self.ids:
            return snapshot
        anonymous = (replace(hold, lease="") if hold.partition is None else hold for hold in snapshot.holds)
        return replace(snapshot, holds=tuple(anonymous))

    def other_jobs(self, job: GPUJob) -> str:
        """What a job that has not begun waits for, or why it will not begin: `for prepare to succeed`; "" where no
        other job is in its way."""
        if job.spec.after is None or job.status.attempt_count:
            return ""
        phases: dict[str, str] = {}
        for name, _ in job.spec.after.jobs:
            phase = self._phase(key_of_awaited(job.metadata.namespace or "", name))
            phases |= {name: phase} if phase is not None else {}
        found = progress(job.spec.after, job.status.after, phases)
        if broken := broken_words(found):
            return f"in vain: {broken}."
        waits = waiting_words(found)
        return f"{waits}. It joins the queue after that." if waits else ""

    def _phase(self, key: Key) -> str | None:
        """Of a job or an array; of an index whose job is gone, how it ended."""
        with suppress(NotFound):
            return str(lookup(self._store.get(key), "status.phase") or JobPhase.PENDING)
        if (made := index_of(key)) is not None:
            with suppress(NotFound):
                status = self._store.get(made[0]).get("status") or {}
                return phase_of_index(status.get("succeeded", ""), status.get("failed", ""), made[1])
        return None

    def policies(self, snapshot: Snapshot) -> Policies:
        """Those of the daemon that places."""
        queues = self.all(Queue)
        usages = self.all(QueueUsage) if queues else ()
        return policies(self._home, queues, usages, self.all(Reservation), snapshot)


class _Question:
    """About one document, as of what was read."""

    def __init__(self, store: Store, document: Document, read: _Reading) -> None:
        self._read = read
        self._store = store
        self._document = document
        self._now = read.now
        self._title = f"{document['kind'].lower()}/{document['metadata']['name']}"
        self.of_job = BY_NAME[document["kind"]].runs
        self._all_partitions: Sequence[GPUPartition] = ()
        """As `waiting` has read them."""

    @property
    def damaged(self) -> list[InvalidObject]:
        return self._read.damaged

    def answer(self) -> Iterator[str]:
        if self._document["metadata"].get("deletionTimestamp"):
            yield f"{self._title} is being deleted."
        elif self.of_job:
            yield from self._job()
        else:
            yield from self._partition()

    def waiting(self) -> Explanation | None:
        """Why a job or partition that is in the queue, or would come into it, is not placed. None where it is placed.

        Raises InvalidObject where it is damaged itself; as the scheduler does, it leaves out others that are.
        """
        partitions = self._read.all(GPUPartition)
        more: list[GPUPartition] = []
        key = key_of(self._document)
        if self.of_job:
            job = decode(GPUJob, self._document)
            mine = [p for p in partitions if p.is_owned_by(job.uid)]
            pending = [p for p in mine if p.waits and not p.deleting]
            if not pending:
                if any(not p.status.phase.ended for p in mine):
                    return None
                pending = more = _to_be(job)
            key = pending[0].key
        self._all_partitions = partitions
        snapshot = self._read.snapshot(more, partitions)
        return explain(snapshot, key, self._read.policies(snapshot))

    def _job(self) -> Iterator[str]:
        job, now = self._document, self._now
        phase = lookup(job, "status.phase") or JobPhase.PENDING
        if _over(job):
            ended = _since(lookup(job, "status.completionTime"), now)
            yield f"{self._title} is over: {phase_summary(job)}{ended}."
            yield from _last_attempt(job)
            if came := call_outcome(lookup(job, "status.call") or {}):
                yield f"Outcome of the call: {came}"
            return
        if phase == JobPhase.PARKED:
            yield from self._parked()
            return
        if lookup(job, "spec.suspend"):
            resume = f"`cumulus resume {job['metadata']['name']}`"
            yield f"{self._title} is suspended: spec.suspend is true. {resume} lets it run."
            return
        if phase in RUNNING_PHASES:
            yield f"{self._title} {_runs(job, now)}."
            yield from self._linked()
            yield from self._leases()
            yield from parking_words.of_refused(job)
            yield from parking_words.of_idle(job)
            yield from self._saved()
            return
        if lookup(job, "spec.park"):
            unpark = f"`cumulus unpark {job['metadata']['name']}`"
            yield f"{self._title} is held: spec.park is true, and no program of it runs. {unpark} lets it run."
            return
        waits = condition(job, JobCondition.SCHEDULED)
        if phase == JobPhase.SCHEDULED or waits.get("status") == "True":
            ready = condition(job, JobCondition.PARTITIONS_READY)
            step = "its leases are being granted" if ready.get("status") != "True" else "its process is being started"
            yield f"{self._title} has its place{_place(job)}; {step}."
            yield from self._refused_leases()
            return
        yield from self._pending()

    def _parked(self) -> Iterator[str]:
        """Of a job whose program waits in main memory."""
        job = self._document
        yield f"{self._title} {parking_words.of_parked(job)}"
        found = self.waiting()
        if found is not None:
            yield from self._explained(found)
        elif any(lookup(p, "status.phase") == PartitionPhase.UNPARKING for p in self._partitions()):
            yield f"It has its share again{_place(job)}; its node is bringing it back."
        elif lookup(job, "spec.suspend"):
            yield f"`cumulus resume {job['metadata']['name']}` brings it back."
        else:
            yield f"`cumulus unpark {job['metadata']['name']}` brings it back."

    def held_back(self) -> str:
        """Why a pending job is not in the queue, whatever is free: it is between two attempts, say. "" where it is."""
        if any(reruns.still_ending(self._document)):
            return f"waits until run {reruns.run_number(self._document) - 1}, whose place it takes, has ended."
        if others := self._read.other_jobs(decode(GPUJob, self._document)):
            return f"waits {others}"
        waits = condition(self._document, JobCondition.SCHEDULED)
        if waits.get("reason") in _BETWEEN:
            return f"is between attempts: {waits.get('message')}.{self._due()}"
        if waits.get("reason") == JobReason.NAME_TAKEN:
            return f"waits: {waits.get('message')}."
        return ""

    def _pending(self) -> Iterator[str]:
        if held := self.held_back():
            yield f"{self._title} {held}"
            if condition(self._document, JobCondition.SCHEDULED).get("reason") in _BETWEEN:
                yield from _last_attempt(self._document)
            return
        yield from self._explained(self.waiting())
        if said := prefetched(self._document):
            yield f"Its checkpoint, brought ahead: {said}."

    def _due(self) -> str:
        left = retries.next_due(decode(GPUJob, self._document), self._now)
        return f" The next begins in {format_duration(left)}." if left > 0 else ""

    def _partition(self) -> Iterator[str]:
        partition, now = self._document, self._now
        phase = lookup(partition, "status.phase")
        if _over(partition):
            ended = _since(lookup(partition, "status.endedAt"), now)
            yield f"{self._title} is over: {phase_summary(partition)}{ended}."
        elif phase == PartitionPhase.ACTIVE:
            ends = lookup(partition, "status.expiresAt")
            node = lookup(partition, "status.node")
            yield f"{self._title} is active on {node}; its lease ends in {until(ends, now)}."
        elif phase == PartitionPhase.UNPARKING:
            yield f"{self._title} has its share again; {lookup(partition, 'status.node')} is bringing its program back."
        elif phase == PartitionPhase.PARKED and not decode(GPUPartition, partition).waits:
            ends = lookup(partition, "status.expiresAt")
            yield f"{self._title} is parked on {lookup(partition, 'status.node')}, for {until(ends, now)} more at most."
        elif phase == PartitionPhase.BOUND:
            yield f"{self._title} is bound to {lookup(partition, 'status.node')}; its lease is being granted."
            yield from _refused_lease(partition)
        else:
            yield from self._explained(self.waiting())

    def _refused_leases(self) -> Iterator[str]:
        """Each once: partitions of one node say the same."""
        yield from dict.fromkeys(line for partition in self._partitions() for line in _refused_lease(partition))

    def _partitions(self) -> Sequence[Document]:
        """The job's own."""
        return self._store.list(Query(kind=GPUPartition.KIND, owner_uid=self._document["metadata"]["uid"])).items

    def _linked(self) -> Iterator[str]:
        """How the devices reach each other that its gang has."""
        active = [p for p in self._partitions() if lookup(p, "status.phase") == PartitionPhase.ACTIVE]
        if len(active) < 2:
            return
        devices = {(n.metadata.name, d.index): d.device for n in self._read.all(GPUNode) for d in n.status.devices}
        places = ((lookup(p, "status.node"), lookup(p, "status.device")) for p in active)
        found = linking.words((at[0], devices[at]) for at in places if at in devices)
        if found:
            yield f"Its devices are {found}."

    def _leases(self) -> Iterator[str]:
        ends = [
            p["status"]["expiresAt"]
            for p in self._partitions()
            if lookup(p, "status.phase") == PartitionPhase.ACTIVE and lookup(p, "status.expiresAt")
        ]
        if ends:
            yield f"Its lease ends in {until(min(ends), self._now)}, at {to_the_second(min(ends))}."
        for partition in self._partitions():
            taken = lookup(partition, "status.reclaim")
            if taken and lookup(partition, "status.phase") == PartitionPhase.ACTIVE:
                yield f"But {reclaim.words(Reclaim.model_validate(taken))}, from {to_the_second(taken['at'])} on."
                break

    def _saved(self) -> Iterator[str]:
        """What it would lose if it ended now, and what comes after."""
        job, now = self._document, self._now
        if lost := unsaved(job, now):
            yield f"If it ended now, it would lose {lost}."
        if error := lookup(job, "status.checkpoint.uploadError"):
            yield f"What it saves does not get to {lookup(job, 'status.checkpoint.uri')}: {error}."
        if following := lookup(job, "status.next"):
            yield f"Attempt {following['number']} is queued already: it goes on there when this lease is over."

    def _explained(self, found: Explanation | None) -> Iterator[str]:
        if not self._store.list(Query(kind=GPUNode.KIND, limit=1)).items:
            yield f"{self._title} waits for a node: none is known. `cumulus serve` makes this machine one."
            return
        if found is None:
            yield f"{self._title} has its place; its leases are being granted."
            return
        headline, *rest = found.lines()
        yield f"{self._title}: {headline}."
        yield from rest
        yield from parking_words.in_the_way(found, self._all_partitions)


def _to_be(job: GPUJob) -> list[GPUPartition]:
    """The partitions that the job controller will make: it may not have come to it, or not be running."""
    made = job_partitions.partitions(job, job.status.attempt_count + 1)
    created = job.metadata.creation_timestamp
    return [
        p.replace(metadata=p.metadata.model_copy(update={"uid": p.metadata.name, "creation_timestamp": created}))
        for p in made
    ]


def _refused_lease(partition: Document) -> Iterator[str]:
    """Why the node of a bound partition, which may well answer, grants no lease: its disk is full, say."""
    said = condition(partition, PartitionCondition.ACTIVE)
    if (
        lookup(partition, "status.phase") == PartitionPhase.BOUND
        and said.get("status") == "False"
        and said.get("message")
    ):
        yield f"{lookup(partition, 'status.node')} grants no lease now: {said['message']}."


def _last_attempt(job: Document) -> Iterator[str]:
    last = _attempt(job)
    if last.get("endTime"):
        code = f", exit code {last['exitCode']}" if last.get("exitCode") is not None else ""
        text = f": {last['message']}" if last.get("message") else ""
        yield f"Attempt {last.get('number')} ended with {last.get('reason') or 'no reason'}{code}{text}."


def _attempt(job: Document) -> Document:
    attempts = lookup(job, "status.attempts") or [{}]
    return dict(attempts[-1])


def _place(job: Document) -> str:
    last = _attempt(job)
    nodes = [n for n in dict.fromkeys(last.get("nodes") or [last.get("node")]) if n]
    return f" on {', '.join(nodes)}" if nodes else ""


def _runs(job: Document, now: datetime) -> str:
    started, saves = _attempt(job).get("startTime"), lookup(job, "status.phase") == JobPhase.CHECKPOINTING
    runs = f"has been running{_place(job)} for {age(started, now)}" if started else f"is running{_place(job)}"
    return f"{runs}, and is saving a checkpoint now" if saves else runs


def _since(moment: str | None, now: datetime) -> str:
    return f", {age(moment, now)} ago" if moment else ""


def _over(document: Document) -> bool:
    return BY_NAME[document["kind"]].over(document)
