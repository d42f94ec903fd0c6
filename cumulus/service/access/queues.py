"""To which queue something is submitted, and whether its submitter and its spec may be there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cumulus.admission.problems import FieldProblem
from cumulus.lib.printable import one_line
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kinds.queue import KIND
from cumulus.resources.query import Query
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.resources.submitter import QUEUE
from cumulus.store.base import Store, Write

if TYPE_CHECKING:
    from cumulus.service.identity import Identity

_DURATIONS = (("spec", "gpu", "duration"), ("spec", "duration"))
"""Where a job and a partition say how long their leases last."""


class NotYours(Exception):
    """The submitter may not submit there; the text says why."""


def queues(store: Store, writes: Sequence[Write] = ()) -> Mapping[str, Document]:
    """By name, as they are once these writes are made: all are made, or none."""
    there = {found["metadata"]["name"]: found for found in store.list(Query(KIND.name)).items}
    written = (write.document for write in writes if write.target.kind == KIND.name and write.document is not None)
    return there | {document["metadata"]["name"]: document for document in written}


def find(there: Mapping[str, Document], identity: Identity, namespace: str, document: Document, *, admin: bool) -> str:
    """The queue that an object is submitted to: the one that it names, else its user's; "" where there are none. Raises
    NotYours, and KeyError for a name that there is not."""
    named = lookup(document, "spec.queue")
    if isinstance(named, str) and named:
        if named not in there and not (there and named == DEFAULT_QUEUE):
            raise KeyError(named)
        if not admin and named in there and not _match(there[named], identity, namespace):
            raise NotYours(f"the queue {named} does not list {one_line(identity.name)} among its submitters")
        return named
    if not there:
        return ""
    for by in _BY:
        found = [name for name, queue in sorted(there.items()) if by(queue, identity, namespace)]
        if found:
            return found[0]
    default = there.get(DEFAULT_QUEUE)
    if default is not None and not admin and not _match(default, identity, namespace):
        raise NotYours(f"no queue lists {one_line(identity.name)} among its submitters, not even {DEFAULT_QUEUE}")
    return DEFAULT_QUEUE


def problems(there: Mapping[str, Document], queue: str, document: Document) -> list[FieldProblem]:
    """What of the spec the queue does not allow, or one above it."""
    from cumulus.resources.quantity import parse_duration

    found = []
    priority = lookup(document, "spec.priority")
    ceilings = [
        (highest, name) for name in _upwards(there, queue)
        if isinstance(highest := lookup(there[name], "spec.highestPriority"), int)
    ]  # fmt: skip
    lowest = min(ceilings, key=lambda each: each[0], default=None)
    if lowest is not None and isinstance(priority, int) and priority > lowest[0]:
        message = f"is more than {lowest[0]}, the highest priority of the queue {lowest[1]}"
        found.append(FieldProblem(("spec", "priority"), message))
    longest = longest_lease(there, queue)
    for path in _DURATIONS:
        given = lookup(document, path)
        if longest is not None and given and parse_duration(given) > parse_duration(longest[0]):
            message = f"is more than {longest[0]}, the longest that the queue {longest[1]} allows"
            found.append(FieldProblem(path, message))
    return found


def longest_lease(there: Mapping[str, Document], queue: str) -> tuple[str, str] | None:
    """The longest lease that a queue and those above it allow, and which of them says so; None where none does."""
    from cumulus.resources.quantity import parse_duration

    said = [(longest, name) for name in _upwards(there, queue) if (longest := lookup(there[name], "spec.maxDuration"))]
    return min(said, key=lambda each: parse_duration(each[0]), default=None)


def _upwards(there: Mapping[str, Document], queue: str) -> list[str]:
    """The queue and those above it, as far as they are there; each once."""
    found: list[str] = []
    name: object = queue
    while isinstance(name, str) and name in there and name not in found:
        found.append(name)
        name = lookup(there[name], "spec.parent")
    return found


def tree_problem(there: Mapping[str, Document], document: Document) -> FieldProblem | None:
    """Why a queue, which is among those `there`, cannot have its parent: there is none of the name, or it would be its
    own ancestor."""
    name, parent = document["metadata"]["name"], lookup(document, "spec.parent")
    if not isinstance(parent, str) or not parent:
        return None
    if parent not in there:
        return FieldProblem(("spec", "parent"), f"there is no queue {parent}; make it first, or in the same file")
    seen: list[str] = []
    above: object = parent
    while isinstance(above, str) and above in there and above not in seen:
        if above == name:
            return FieldProblem(
                ("spec", "parent"), f"makes {name} a part of itself: {' in '.join([name, *seen, name])}"
            )
        seen.append(above)
        above = lookup(there[above], "spec.parent")
    return None


def named_by(document: Document) -> str:
    """The queue that a stored object was submitted to."""
    return str((document["metadata"].get("annotations") or {}).get(QUEUE) or "")


def _listed(queue: Document, field: str) -> Sequence[str]:
    return lookup(queue, f"spec.submitters.{field}") or ()


def _by_user(queue: Document, identity: Identity, namespace: str) -> bool:
    return identity.name in _listed(queue, "users")


def _by_group(queue: Document, identity: Identity, namespace: str) -> bool:
    return not {*identity.groups}.isdisjoint(_listed(queue, "groups"))


def _by_namespace(queue: Document, identity: Identity, namespace: str) -> bool:
    return namespace in _listed(queue, "namespaces")


_BY = (_by_user, _by_group, _by_namespace)


def _match(queue: Document, identity: Identity, namespace: str) -> bool:
    everybody = not any(_listed(queue, field) for field in ("users", "groups", "namespaces"))
    return everybody or any(by(queue, identity, namespace) for by in _BY)
