"""The shares that are held, promised or reserved, and the nodes, kept in memory and up to date by a watch, to within
some milliseconds: a page asks again and again, and ten thousand partitions of jobs that are over are not read again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cumulus.clock import Clock
from cumulus.errors import Expired
from cumulus.history import facts
from cumulus.history.facts import LeaseFact, NodeFact, PromisedSeat, ReservationFact
from cumulus.resources.documents import MALFORMED
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.query import Query, Watch
from cumulus.resources.registry import BY_NAME, KINDS
from cumulus.store.base import Store

_KINDS = frozenset(kind.name for kind in KINDS if kind.remembered_as)
RECENT_SECONDS = 60
"""Leases that ended so long ago are told too: the history learns of an end a moment later."""


class LiveShares(NamedTuple):
    """As the store is now."""

    leases: Sequence[LeaseFact]
    """Held, or ended just now."""
    promised: Sequence[PromisedSeat]
    nodes: Sequence[NodeFact]
    reservations: Sequence[ReservationFact]


class SharesNow:
    """Safe for use by several threads."""

    def __init__(self, store: Callable[[], Store], clock: Clock) -> None:
        self._open_store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self._listed: dict[str, int] = {}
        """The revision at which the objects of each kind were read."""
        self._leases: dict[Key, LeaseFact] = {}
        self._promised: dict[Key, PromisedSeat] = {}
        self._nodes: dict[Key, NodeFact] = {}
        self._reservations: dict[Key, ReservationFact] = {}
        self._ended: dict[str, LeaseFact] = {}

    def now(self) -> LiveShares:
        """What is damaged is left out."""
        with self._lock:
            try:
                self._follow()
            except Expired:
                self._stop()
                self._follow()
            since = facts.to_milliseconds(self._clock.now()) - RECENT_SECONDS * 1000
            self._ended = {uid: lease for uid, lease in self._ended.items() if (lease.end or 0) >= since}
            leases = (*self._leases.values(), *self._ended.values())
            return LiveShares(
                leases, tuple(self._promised.values()), tuple(self._nodes.values()), tuple(self._reservations.values())
            )

    def _follow(self) -> None:
        if self._watch is None or self._watch.closed:
            self._begin()
            return
        while events := self._watch.next(timeout=0):
            for event in events:
                if event.revision <= self._listed[event.key.kind]:
                    continue
                if event.type == "DELETED":
                    self._drop(event.document)
                else:
                    self._put(event.document)

    def _begin(self) -> None:
        store = self._open_store()
        # Watched from before they are read: what changes in between is told again.
        self._watch = store.watch(since=store.revision(), kinds=_KINDS)
        self._leases, self._promised, self._nodes, self._reservations, self._ended = {}, {}, {}, {}, {}
        try:
            for kind in sorted(_KINDS):
                page = store.list(Query(kind))
                self._listed[kind] = page.revision
                for document in page.items:
                    self._put(document)
        except BaseException:
            # Not all of them are known: the next one begins anew.
            self._stop()
            raise

    def _stop(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def _put(self, document: Document) -> None:
        try:
            key = key_of(document)
            remembered_as = BY_NAME[key.kind].remembered_as
            if remembered_as == "node":
                self._nodes[key] = facts.node(document)
                return
            if remembered_as == "reservation":
                self._reservations.pop(key, None)
                if (held := facts.reservation(document)) is not None:
                    self._reservations[key] = held
                return
            self._leases.pop(key, None)
            self._promised.pop(key, None)
            lease = facts.lease(document)
            if lease is None:
                if (seat := facts.seat(document)) is not None:
                    self._promised[key] = seat
            elif lease.end is None:
                self._leases[key] = lease
            elif lease.granted:
                self._ended[lease.uid] = lease
        except MALFORMED:
            return

    def _drop(self, document: Document) -> None:
        key = key_of(document)
        self._nodes.pop(key, None)
        self._promised.pop(key, None)
        self._reservations.pop(key, None)
        lease = self._leases.pop(key, None)
        if lease is not None and lease.granted:
            self._ended[lease.uid] = lease._replace(end=facts.to_milliseconds(self._clock.now()))
