"""Watches without threads: a call that does not wait is told everything that was committed before it."""

from __future__ import annotations

from typing import Any

from cumulus.store.base import Store, WatchEvent


class ExactStore:
    """Another store, with watches that read the log when they are asked and not when a feeder's thread comes to it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def watch(self, *, since: int, kinds: frozenset[str] | None = None) -> ExactWatch:
        return ExactWatch(self._store, since, kinds)


class ExactWatch:
    """A new watch reads the log itself before it is fed: so each `next` opens one where the last one ended."""

    def __init__(self, store: Store, since: int, kinds: frozenset[str] | None) -> None:
        self._store = store
        self._position = since
        self._kinds = kinds
        self.closed = False
        store.watch(since=since, kinds=kinds).close()

    def next(self, timeout: float | None = None) -> list[WatchEvent]:
        newest = self._store.revision()
        if self.closed or newest == self._position:
            return []
        watch = self._store.watch(since=self._position, kinds=self._kinds)
        events: list[WatchEvent] = []
        while more := watch.next(0):
            events += more
        watch.close()
        self._position = newest
        return events

    def close(self) -> None:
        self.closed = True
