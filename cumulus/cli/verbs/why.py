"""`cumulus why`: why a job is not running: what blocks it, who holds that, until when at the latest, who is ahead.

Asks `scheduling.explain` on a snapshot of the store: the same pass that the scheduler makes, so the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cumulus import daemon_lock, paths
from cumulus.cli import context, options, targets
from cumulus.cli.targets import Target
from cumulus.clock import Clock, SystemClock, to_the_second
from cumulus.errors import UsageError
from cumulus.resources.columns import age, until
from cumulus.resources.documents import condition, lookup
from cumulus.resources.job import GPUJob
from cumulus.resources.key import Document
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.resources.quantity import format_duration
from cumulus.scheduling.explain import Explanation, explain
from cumulus.scheduling.snapshot import build
from cumulus.service import diagnose
from cumulus.service.wait_conditions import summary
from cumulus.store.base import Query, Store, key_of
from cumulus.store.client import Client, decode


def why(words: options.JobWords, namespace: options.Namespace = "default") -> None:
    """Say why a job is not running: what blocks it, who holds that, until when at the latest, who is ahead.

    Since every lease has an end, a waiting job can be told when it starts at the latest. Partitions can be asked
    about too: partition/NAME.

    \b
    Examples:
      cumulus why train
      cumulus why job/train -n research
      cumulus why partition/mine
    """
    target = targets.parse_one(words, default="GPUJob")
    if target.kind.name not in ("GPUJob", "GPUPartition"):
        raise UsageError(f"only jobs and partitions wait, not a {target.kind.name}")
    with context.open_store() as store:
        daemon = daemon_lock.daemon_pid(paths.home()) is not None
        left_out = diagnose.LeftOut()
        for line in answer(store, target, namespace, SystemClock(), daemon=daemon, left_out=left_out):
            print(line)
        left_out.tell()


def answer(
    store: Store, target: Target, namespace: str, clock: Clock, *, daemon: bool, left_out: diagnose.LeftOut
) -> Iterator[str]:
    """The lines of the answer, for a job or partition in whatever state. Raises NotFound."""
    document = targets.one(store, target, namespace)
    title = f"{target}"
    if document["metadata"].get("deletionTimestamp"):
        yield f"{title} is being deleted."
    elif target.kind.name == "GPUJob":
        yield from _job(store, document, title, clock, left_out)
    else:
        yield from _partition(store, document, title, clock, left_out)
    if not daemon and not _over(document):
        yield f"No daemon runs on {paths.home()}: nothing happens until `cumulus serve` is started."


def waiting(store: Store, document: Document, clock: Clock, left_out: diagnose.LeftOut) -> Explanation | None:
    """Why a job or partition that is in the queue, or would come into it, is not placed. None where it is placed.

    Raises InvalidObject where it is damaged itself; as the scheduler does, it leaves out others that are.
    """
    client = Client(store)
    nodes = client.list(GPUNode, damaged=left_out.add)
    partitions = client.list(GPUPartition, damaged=left_out.add)
    key = key_of(document)
    if key.kind == "GPUJob":
        job = decode(GPUJob, document)
        mine = [p for p in partitions if any(o.uid == job.uid for o in p.metadata.owner_references)]
        pending = [p for p in mine if p.status.phase == "Pending" and not p.deleting]
        if not pending:
            if any(not p.status.phase.ended for p in mine):
                return None
            pending = _to_be(job)
            partitions += pending
        key = pending[0].key
    return explain(build(nodes, partitions, clock.now()), key)


def _to_be(job: GPUJob) -> list[GPUPartition]:
    """The partitions that the job controller will make: it may not have come to it, or not be running."""
    from cumulus.controllers.job import objects

    made = objects.partitions(job, job.status.attempt_count + 1)
    created = job.metadata.creation_timestamp
    return [
        p.replace(metadata=p.metadata.model_copy(update={"uid": p.metadata.name, "creation_timestamp": created}))
        for p in made
    ]


def _job(store: Store, job: Document, title: str, clock: Clock, left_out: diagnose.LeftOut) -> Iterator[str]:
    now = clock.now()
    phase = lookup(job, "status.phase") or "Pending"
    if _over(job):
        yield f"{title} is over: {summary(job)}{_since(lookup(job, 'status.completionTime'), now, ', ')}."
        yield from _last_attempt(job)
        return
    if lookup(job, "spec.suspend"):
        yield f"{title} is suspended: spec.suspend is true. `cumulus resume {job['metadata']['name']}` lets it run."
        return
    if phase in ("Running", "Checkpointing"):
        yield f"{title} is {phase.lower()}{_place(job)}{_since(_attempt(job).get('startTime'), now, ', ')}."
        yield from _leases(store, job, clock)
        return
    waits = condition(job, "Scheduled")
    if phase == "Scheduled" or waits.get("status") == "True":
        ready = condition(job, "PartitionsReady")
        step = "its leases are being granted" if ready.get("status") != "True" else "its process is being started"
        yield f"{title} has its place{_place(job)}; {step}."
        return
    yield from _pending(store, job, title, clock, left_out)


def held_back(job: Document, clock: Clock) -> str:
    """Why a pending job is not in the queue, whatever is free: it is between two attempts, say. "" where it is."""
    waits = condition(job, "Scheduled")
    if waits.get("reason") in ("BackingOff", "Releasing"):
        return f"is between attempts: {waits.get('message')}.{_due(job, clock)}"
    if waits.get("reason") == "NameTaken":
        return f"waits: {waits.get('message')}."
    return ""


def _pending(store: Store, job: Document, title: str, clock: Clock, left_out: diagnose.LeftOut) -> Iterator[str]:
    if held := held_back(job, clock):
        yield f"{title} {held}"
        if condition(job, "Scheduled").get("reason") != "NameTaken":
            yield from _last_attempt(job)
        return
    yield from _explained(store, waiting(store, job, clock, left_out), title)


def _due(job: Document, clock: Clock) -> str:
    from cumulus.controllers.job import outcome

    left = outcome.next_due(decode(GPUJob, job), clock.now())
    return f" The next begins in {format_duration(left)}." if left > 0 else ""


def _explained(store: Store, found: Explanation | None, title: str) -> Iterator[str]:
    if not store.list(Query(kind="GPUNode", limit=1)).items:
        yield f"{title} waits for a node: none is known. `cumulus serve` makes this machine one."
        return
    if found is None:
        yield f"{title} has its place; its leases are being granted."
        return
    headline, *rest = found.lines()
    yield f"{title}: {headline}."
    yield from rest


def _partition(
    store: Store, partition: Document, title: str, clock: Clock, left_out: diagnose.LeftOut
) -> Iterator[str]:
    now = clock.now()
    phase = lookup(partition, "status.phase") or "Pending"
    if _over(partition):
        yield f"{title} is over: {summary(partition)}{_since(lookup(partition, 'status.endedAt'), now, ', ')}."
    elif phase == "Active":
        ends = lookup(partition, "status.expiresAt")
        yield f"{title} is active on {lookup(partition, 'status.node')}; its lease ends in {until(ends, now)}."
    elif phase == "Bound":
        yield f"{title} is bound to {lookup(partition, 'status.node')}; its lease is being granted."
    else:
        yield from _explained(store, waiting(store, partition, clock, left_out), title)


def _leases(store: Store, job: Document, clock: Clock) -> Iterator[str]:
    ends = [
        p["status"]["expiresAt"]
        for p in store.list(Query(kind="GPUPartition", owner_uid=job["metadata"]["uid"])).items
        if lookup(p, "status.phase") == "Active" and lookup(p, "status.expiresAt")
    ]
    if ends:
        yield f"Its lease ends in {until(min(ends), clock.now())}, at {to_the_second(min(ends))}."


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


def _since(moment: str | None, now: datetime, before: str) -> str:
    return f"{before}{age(moment, now)} ago" if moment else ""


def _over(document: Document) -> bool:
    return lookup(document, "status.phase") in ("Succeeded", "Failed", "Expired", "Released")
