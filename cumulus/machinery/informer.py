"""List and watch: keeps a `Cache` up to date with the store, and tells handlers what changed.

One watch carries all kinds, so that the cache is the store as it was at one revision: old perhaps, never torn.
Handlers run in the informer's thread, after the cache has the change, and only add keys to queues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import orjson
import structlog

from cumulus.errors import Expired
from cumulus.machinery.cache import Cache, Index
from cumulus.resources.key import Document, Key, key_of
from cumulus.store.base import Query, Store, Watch

log = structlog.get_logger("cumulus.controllers")

PAGE = 500

MALFORMED = (AttributeError, KeyError, TypeError, ValueError)
"""What a document of another shape than an object's raises where it is taken apart."""


@dataclass(slots=True)
class Change:
    """One object as it was (None: not known before) and as it is; for DELETED `new` is its last state."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    key: Key
    before: bytes | None
    """The JSON of what it was: many changes pass without a handler that asks for it."""
    new: Document

    _old: Document | None = field(default=None, init=False, repr=False)
    _respecified: bool | None = field(default=None, init=False, repr=False)

    @property
    def old(self) -> Document | None:
        """Decoded once, when it is first asked for."""
        if self._old is None and self.before is not None:
            self._old = orjson.loads(self.before)
        return self._old

    @property
    def respecified(self) -> bool:
        """The object came or went, or somebody changed its spec, asked for its deletion or changed its finalizers."""
        if self._respecified is None:
            old = self.old
            self._respecified = self.type != "MODIFIED" or old is None or _spec(old) != _spec(self.new)
        return self._respecified


def _spec(document: Document) -> object:
    metadata = document["metadata"]
    return document.get("spec"), metadata.get("deletionTimestamp"), metadata.get("finalizers")


Handler = Callable[[Change], None]


class Informer:
    """Not for use by several threads, except `close` and the cache."""

    def __init__(self, store: Store, kinds: Sequence[str], indexes: Iterable[Index] = ()) -> None:
        """`indexes`: what the cache can be asked by."""
        self.cache = Cache(indexes)
        self._store = store
        self._kinds = tuple(kinds)
        self._handlers: list[Handler] = []
        self._watch: Watch | None = None

    @property
    def synced(self) -> bool:
        """Whether the cache holds a whole state of the store."""
        return self._watch is not None

    def add_handler(self, handler: Handler) -> None:
        """Tell `handler` of every later change. Take what is there already from the cache."""
        self._handlers.append(handler)

    def remove_handler(self, handler: Handler) -> None:
        self._handlers.remove(handler)

    def poll(self, timeout: float | None = 0) -> int:
        """Take in what changed, waiting up to `timeout` seconds for it; lists first where there is no watch.

        Returns the number of changes. Raises what the store raises; the next call then lists anew.
        """
        if self._watch is None:
            return self.relist()
        try:
            events = self._watch.next(timeout)
        except Expired:
            log.info("the watch fell behind what the store keeps; listing again")
            return self.relist()
        except BaseException:
            self.close()
            raise
        for event in events:
            self._take(event.type, event.revision, event.document)
            self.cache.advance(event.revision)
        return len(events)

    def relist(self) -> int:
        """Compare the cache with the store, whatever the watch told, and watch on from there.

        This is what makes up for events that were lost. Returns the number of changes found.
        """
        self.close()
        while True:
            try:
                found, revision = self._list()
                watch = self._store.watch(since=revision, kinds=frozenset(self._kinds))
                break
            except Expired:
                continue
        changes = 0
        for kind in self._kinds:
            gone = [Key(kind, *name) for name in self.cache.keys(kind)]
            for key in gone:
                if key not in found and self._lose(key, revision):
                    changes += 1
        for document in found.values():
            changes += self._take("MODIFIED", revision, document)
        self.cache.advance(revision)
        self._watch = watch
        return changes

    def close(self) -> None:
        """End the watch. The cache stays as it is; the next `poll` lists anew."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def _list(self) -> tuple[dict[Key, Document], int]:
        """All objects of all kinds at one revision."""
        found: dict[Key, Document] = {}
        revision: int | None = None
        for kind in self._kinds:
            token = ""
            while True:
                page = self._store.list(Query(kind, limit=PAGE, continue_token=token, revision=revision))
                revision = page.revision
                for item in page.items:
                    try:
                        found[key_of(item)] = item
                    except MALFORMED as error:
                        log.error("left out a damaged object", kind=kind, error=repr(error), document=str(item)[:200])
                token = page.continue_token
                if not token:
                    break
        return found, revision or 0

    def _take(self, type: str, revision: int, document: Document) -> int:
        """One object that is not what any version of us writes must not keep all others from being seen."""
        try:
            return self._apply(type, revision, document)
        except MALFORMED as error:
            log.error("left out a damaged object", error=repr(error), document=str(document)[:200])
            return 0

    def _apply(self, type: str, revision: int, document: Document) -> int:
        key = key_of(document)
        if type == "DELETED":
            old = self.cache.drop(key, revision)
            self._tell(Change("DELETED", key, old, document))
            return 1
        changed, old = self.cache.put(document)
        if not changed:
            return 0
        self._tell(Change("ADDED" if old is None else "MODIFIED", key, old, document))
        return 1

    def _lose(self, key: Key, revision: int) -> bool:
        old = self.cache.drop(key, revision)
        if old is None:
            return False
        self._tell(Change("DELETED", key, old, orjson.loads(old)))
        return True

    def _tell(self, change: Change) -> None:
        for handler in list(self._handlers):
            handler(change)
