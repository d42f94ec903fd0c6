"""The role bindings that are stored, kept in memory: a check costs microseconds, and sees what was bound just now."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any

from cumulus.errors import Expired
from cumulus.resources.key import Document
from cumulus.resources.query import Query, Watch
from cumulus.resources.registry import KINDS
from cumulus.resources.roles import Role, strongest

if TYPE_CHECKING:
    from cumulus.service.identity import Identity
    from cumulus.store.base import Store

EVERYBODY = "system:authenticated"
"""The group that everybody is in who is known."""
_KINDS = frozenset(kind.name for kind in KINDS if kind.grants)

Roles = dict[tuple[str, str], Role]
"""By (User or Group, name)."""


class Bindings:
    """Safe for use by several threads. The store is opened by the first question."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self._by_namespace: dict[str, Roles] | None = None

    def role(self, identity: Identity, namespace: str) -> Role | None:
        """The strongest role that is bound to the user or a group of theirs, in the namespace or everywhere; "" for the
        latter alone."""
        bound = self._current()
        found: Role | None = None
        subjects = _subjects(identity)
        for roles in (bound.get(""), bound.get(namespace)):
            if roles:
                for subject in subjects:
                    found = strongest(found, roles.get(subject))
        return found

    def somewhere(self, identity: Identity) -> Role | None:
        """The strongest role that is bound to the user or a group of theirs in any namespace, or everywhere."""
        subjects = _subjects(identity)
        bound = (roles.get(subject) for roles in self._current().values() for subject in subjects)
        return reduce(strongest, bound, None)

    def forget(self) -> None:
        """A binding was written by this process: the next question reads them all."""
        with self._lock:
            self._by_namespace = None

    def _current(self) -> dict[str, Roles]:
        with self._lock:
            store = self._open_store()
            try:
                if self._watch is not None and not self._watch.closed and self._watch.next(timeout=0):
                    self._by_namespace = None
            except Expired:
                self._watch = None
            if self._watch is None or self._watch.closed:
                # Watched from before they are read: a change in between is read again.
                self._watch, self._by_namespace = store.watch(since=store.revision(), kinds=_KINDS), None
            if self._by_namespace is None:
                self._by_namespace = _read(store)
            return self._by_namespace


def _subjects(identity: Identity) -> list[tuple[str, str]]:
    return [("User", identity.name), *(("Group", group) for group in (*identity.groups, EVERYBODY))]


def _read(store: Store) -> dict[str, Roles]:
    found: dict[str, Roles] = {}
    for kind in _KINDS:
        for document in store.list(Query(kind)).items:
            roles = found.setdefault(document["metadata"].get("namespace") or "", {})
            for subject, role in given(document):
                roles[subject] = strongest(roles.get(subject), role) or role
    return found


def given(document: Document) -> list[tuple[tuple[str, str], Role]]:
    """What a binding gives, to whom. One that is damaged gives nothing, and one that is being deleted nothing more."""
    reference, subjects = document.get("roleRef"), document.get("subjects")
    name = reference.get("name") if isinstance(reference, dict) else None
    if name not in _ROLES or not isinstance(subjects, list) or document["metadata"].get("deletionTimestamp"):
        return []
    return [(subject, Role(name)) for each in subjects if (subject := _subject(each)) is not None]


def _subject(given: Any) -> tuple[str, str] | None:
    if not isinstance(given, dict) or given.get("kind") not in ("User", "Group"):
        return None
    return (given["kind"], given["name"]) if isinstance(given.get("name"), str) else None


_ROLES = frozenset(Role)
