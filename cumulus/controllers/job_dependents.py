"""Jobs that wait for others: found by the name of what they wait for, and woken when that comes, ends or goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from cumulus.errors import InvalidObject
from cumulus.machinery.cache import Cache, Index, Reader, StoreReader, readable
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Request
from cumulus.resources.awaited_jobs import awaited_jobs, index_of, key_of_awaited, name_of_awaited, phase_of_index
from cumulus.resources.documents import lookup
from cumulus.resources.job import GPUJob
from cumulus.resources.job_after import DependencyState
from cumulus.resources.job_array import GPUJobArray
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.key import Document, Key
from cumulus.resources.meta import Resource
from cumulus.resources.registry import BY_NAME
from cumulus.store.base import Store

R = TypeVar("R", bound=Resource)


_AWAITED: tuple[type[GPUJob] | type[GPUJobArray], ...] = (GPUJob, GPUJobArray)


def _waits_for(document: Document) -> Iterable[str]:
    """Those that a job names which has not begun yet."""
    if lookup(document, "spec.after") is None or lookup(document, "status.attemptCount"):
        return ()
    if BY_NAME[document["kind"]].over(document):
        return ()
    namespace = document["metadata"].get("namespace")
    return {f"{namespace}/{name}" for name, _ in awaited_jobs(document)}


WAITS_FOR = Index(GPUJob.KIND, _waits_for)
"""Jobs that have not begun, under namespace/name of each job, and namespace/array/name of each array, that they wait
for."""


def dependents(change: Change, cache: Cache) -> Iterable[Request]:
    """The jobs that wait for the job or array that changed."""
    found = cache.indexed(WAITS_FOR, f"{change.key.namespace}/{name_of_awaited(change.key)}")
    return [Request(key.namespace, key.name) for key in sorted(found)]


def came_ended_or_went(change: Change) -> bool:
    if change.type != "MODIFIED" or change.old is None:
        return True
    over = BY_NAME[change.key.kind].over
    return over(change.old) != over(change.new)


def phases(job: GPUJob, reader: Reader, store: Store) -> dict[str, str]:
    """The phase of each job and array that is there of those that this one waits for. Absence is never believed of a
    cache."""
    found: dict[str, str] = {}
    namespace = job.metadata.namespace or ""
    met = {each.name for each in job.status.after or () if each.state is DependencyState.MET}
    for name in {name for name, _ in job.spec.after.jobs} - met if job.spec.after is not None else ():
        try:
            phase = _phase(key_of_awaited(namespace, name), reader, store)
        except InvalidObject:
            # It is there, and nobody can say how it ends.
            phase = JobPhase.PENDING
        if phase is not None:
            found[name] = phase
    return found


def _phase(key: Key, reader: Reader, store: Store) -> str | None:
    """None where it is not there. Raises InvalidObject."""
    for model in _AWAITED:
        if key.kind == model.KIND and (found := _there(model, key, reader, store)) is not None:
            return found.status.phase
    # The jobs of an array go when more have ended than it keeps.
    if (made := index_of(key)) is None or (array := _there(GPUJobArray, made[0], reader, store)) is None:
        return None
    return phase_of_index(array.status.succeeded, array.status.failed, made[1])


def _there(model: type[R], key: Key, reader: Reader, store: Store) -> R | None:
    return reader.get(model, key.namespace, key.name) or StoreReader(store).get(model, key.namespace, key.name)


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
