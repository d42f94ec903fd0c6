"""Follows the store's log for the history. The log itself is what waits to be recorded: whoever writes to the store
never waits for the history, and nothing of it is kept in memory but what a watch may hold.
"""

from __future__ import annotations

from typing import Protocol

import structlog

from cumulus.errors import Expired
from cumulus.history.recorder import HistoryRecorder
from cumulus.resources.lease import Lease
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.resources.query import Page, Query, Watch
from cumulus.resources.reservation import Reservation

_log = structlog.get_logger("cumulus.history")
_IN_ORDER = (GPUNode.KIND, GPUPartition.KIND, Reservation.KIND)
_FOLLOWED = frozenset((*_IN_ORDER, Lease.KIND))
"""The leader's Lease too, which is renewed all the time: so it is known how far the log was read though nothing else
happened."""


class HistorySource(Protocol):
    """What a store is asked."""

    def revision(self) -> int: ...
    def list(self, query: Query) -> Page: ...
    def watch(self, *, since: int, kinds: frozenset[str] | None = None) -> Watch: ...


class HistoryFollower:
    """One for each daemon; the controller of a term begins with `restart`. Not for use by several threads, except the
    recorder. `store_id`, wherever it is asked for: what tells this store from others, which have histories of their
    own."""

    def __init__(self, store: HistorySource, recorder: HistoryRecorder) -> None:
        self.recorder = recorder
        self._store = store
        self._watch: Watch | None = None

    def restart(self) -> None:
        """Another daemon may have recorded meanwhile: begin with what the file has."""
        self._stop()
        self.recorder.reload()

    def follow(self, store_id: str) -> None:
        """Record all that was committed since. Raises StoreUnavailable; the next call goes on where this one was."""
        try:
            watch = self._watch or self._begin(store_id)
            while events := watch.next(timeout=0):
                self.recorder.take(store_id, events)
        except Expired:
            self._stop()
            _log.warning(
                "the history fell behind what the store keeps: leases that began and ended meanwhile are not in it"
            )
            self._compare(store_id)
        except BaseException:
            self._stop()
            raise

    def close(self) -> None:
        self._stop()
        self.recorder.close()

    def _begin(self, store_id: str) -> Watch:
        position = self.recorder.position(store_id)
        if position is None or position > self._store.revision():
            return self._compare(store_id)
        self._watch = self._store.watch(since=position, kinds=_FOLLOWED)
        return self._watch

    def _compare(self, store_id: str) -> Watch:
        """With all that is there now, and follow what comes after it."""
        revision = self._store.revision()
        watch = self._store.watch(since=revision, kinds=_FOLLOWED)
        try:
            # What changes while it is read is told again by the watch.
            # Nodes first: a lease lies on one of their devices.
            documents = [found for kind in _IN_ORDER for found in self._store.list(Query(kind)).items]
            self.recorder.compare(store_id, documents, revision)
        except BaseException:
            watch.close()
            raise
        self._watch = watch
        return watch

    def _stop(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
