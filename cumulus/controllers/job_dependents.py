"""Jobs that wait for others: found by the name of what they wait for, and woken when that comes, ends or goes."""

from __future__ import annotations

from collections.abc import Iterable

from cumulus.errors import InvalidObject
from cumulus.machinery.cache import Cache, Index, Reader, StoreReader, readable
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Request
from cumulus.resources.awaited_jobs import awaited_jobs
from cumulus.resources.documents import lookup
from cumulus.resources.job import GPUJob
from cumulus.resources.job_after import DependencyState
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.key import Document
from cumulus.resources.registry import BY_NAME
from cumulus.store.base import Store


def _waits_for(document: Document) -> Iterable[str]:
    """Those that a job names which has not begun yet."""
    if lookup(document, "spec.after") is None or lookup(document, "status.attemptCount"):
        return ()
    if BY_NAME[document["kind"]].over(document):
        return ()
    namespace = document["metadata"].get("namespace")
    return {f"{namespace}/{name}" for name, _ in awaited_jobs(document)}


WAITS_FOR = Index(GPUJob.KIND, _waits_for)
"""Jobs that have not begun, under namespace/name of each job that they wait for."""


def dependents(change: Change, cache: Cache) -> Iterable[Request]:
    """The jobs that wait for the one that changed."""
    found = cache.indexed(WAITS_FOR, f"{change.key.namespace}/{change.key.name}")
    return [Request(key.namespace, key.name) for key in sorted(found)]


def came_ended_or_went(change: Change) -> bool:
    if change.type != "MODIFIED" or change.old is None:
        return True
    over = BY_NAME[change.key.kind].over
    return over(change.old) != over(change.new)


def phases(job: GPUJob, reader: Reader, store: Store) -> dict[str, str]:
    """The phase of each job that is there of those that this one waits for. Absence is never believed of a cache."""
    found: dict[str, str] = {}
    own = StoreReader(store)
    namespace = job.metadata.namespace or ""
    met = {each.name for each in job.status.after or () if each.state is DependencyState.MET}
    for name in {name for name, _ in job.spec.after.jobs} - met if job.spec.after is not None else ():
        try:
            other = reader.get(GPUJob, namespace, name) or own.get(GPUJob, namespace, name)
        except InvalidObject:
            # It is there, and nobody can say how it ends.
            found[name] = JobPhase.PENDING
            continue
        if other is not None:
            found[name] = other.status.phase
    return found


def awaited(reader: Reader, job: GPUJob) -> bool:
    """Whether a job has yet to see how this one ended."""
    for key in reader.indexed(WAITS_FOR, f"{job.metadata.namespace}/{job.metadata.name}"):
        other = readable(reader, GPUJob, key.namespace, key.name)
        if other is None or other.deleting or other.status.phase.finished:
            continue
        state = next((each.state for each in other.status.after or () if each.name == job.metadata.name), None)
        if state not in (DependencyState.MET, DependencyState.UNMET):
            return True
    return False
