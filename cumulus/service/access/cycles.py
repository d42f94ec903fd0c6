"""Jobs that would wait for each other, and so for ever. Reads documents; no model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cumulus.admission.problems import FieldProblem
from cumulus.errors import NotFound
from cumulus.resources.awaited_jobs import awaited_jobs, index_of, key_of_awaited, makes, name_of_awaited
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.registry import BY_NAME
from cumulus.store.base import Store

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
            chain = [name_of_awaited(at), *_names(way)]
            return _problem(fields[key_of_awaited(key.namespace, chain[-1])], [*chain, name_of_awaited(at)])
        if at in seen:
            continue
        seen.add(at)
        found = made.get(at) or _stored(store, at)
        if found is not None:
            waiting += [(other, (at, way)) for other, _ in _named(found)] if _waits(found) else []
        elif (index := index_of(at)) is not None:
            # Its array may have yet to make it.
            array = made.get(index[0]) or _stored(store, index[0])
            if array is not None and makes(array, index[1]):
                waiting.append((index[0], (at, way)))
    return None


def _problem(path: tuple[str | int, ...], chain: list[str]) -> FieldProblem:
    shown = [*reversed(chain)]
    if len(shown) > 8:
        shown[4:-3] = ["…"]
    return FieldProblem(path, f"makes the job wait for itself: {' after '.join(shown)}")


def _named(document: Document) -> Iterator[tuple[Key, tuple[str | int, ...]]]:
    """What a job, or an array for its jobs, names, each with the path of the field."""
    for name, path in awaited_jobs(document):
        yield key_of_awaited(key_of(document).namespace, name), path


def _stored(store: Store, key: Key) -> Document | None:
    try:
        return store.get(key)
    except NotFound:
        return None


def _waits(found: Document) -> bool:
    """Whether it may still wait for others."""
    return not (BY_NAME[found["kind"]].over(found) or lookup(found, "status.attemptCount"))


def _names(way: Any) -> Iterator[str]:
    while way is not None:
        yield name_of_awaited(way[0])
        way = way[1]
