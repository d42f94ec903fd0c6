"""Jobs that would wait for each other, and so for ever. Reads documents; no model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cumulus.errors import NotFound
from cumulus.resources.awaited_jobs import awaited_jobs
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.registry import BY_NAME
from cumulus.store.base import Store

if TYPE_CHECKING:
    from cumulus.admission.problems import FieldProblem

MOST = 1000
"""Jobs that are looked at. A longer chain may hide a cycle; its jobs then say what they wait for."""


def cycle_problem(store: Store, job: Document, made: Mapping[Key, Document]) -> FieldProblem | None:
    """Why a new job cannot wait for what it names: that waits for the job itself. `made`: what is made with it."""
    key = key_of(job)
    # Each job that is to be looked at, with the way to it: the last one, and the way there.
    waiting: list[tuple[Key, Any]] = [(other, None) for other, _ in _named(job)]
    fields = dict(_named(job))
    seen: set[Key] = set()
    while waiting and len(seen) < MOST:
        at, way = waiting.pop()
        if at == key:
            chain = [at.name, *_names(way)]
            first = Key(key.kind, key.namespace, chain[-1])
            return _problem(fields[first], [*chain, at.name])
        if at in seen:
            continue
        seen.add(at)
        found = made.get(at) or _waiting(store, at)
        waiting += [(other, (at, way)) for other, _ in _named(found)] if found is not None else []
    return None


def _problem(path: tuple[str | int, ...], chain: list[str]) -> FieldProblem:
    from cumulus.admission.problems import FieldProblem

    shown = [*reversed(chain)]
    if len(shown) > 8:
        shown[4:-3] = ["…"]
    return FieldProblem(path, f"makes the job wait for itself: {' after '.join(shown)}")


def _named(job: Document) -> Iterator[tuple[Key, tuple[str | int, ...]]]:
    """The jobs that a job names, each with the path of the field."""
    key = key_of(job)
    for name, path in awaited_jobs(job):
        yield Key(key.kind, key.namespace, name), path


def _waiting(store: Store, key: Key) -> Document | None:
    """The job, where it still waits for others."""
    try:
        found = store.get(key)
    except NotFound:
        return None
    over = BY_NAME[found["kind"]].over(found) or lookup(found, "status.attemptCount")
    return None if over else found


def _names(way: Any) -> Iterator[str]:
    while way is not None:
        yield way[0].name
        way = way[1]
