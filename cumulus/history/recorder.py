"""Writes down what happens to leases, promises, nodes and reservations, from the events of the store's log.

A batch of events and the revision up to which the log was read are one transaction. So a recorder that dies, at any
moment, goes on where it was: nothing is lost or written twice. Where the store has forgotten what came after that
revision, all objects are compared instead: only what began and ended in between is then missing.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from cumulus.clock import Clock
from cumulus.history import facts, retention, schema
from cumulus.history.series import Sample
from cumulus.history.writer import HistoryWriter
from cumulus.resources.documents import MALFORMED
from cumulus.resources.key import Document
from cumulus.resources.query import WatchEvent
from cumulus.resources.registry import BY_NAME

_log = structlog.get_logger("cumulus.history")

BATCH = 500
"""Events of one transaction."""
_KEEP_UP = 1000
"""Revisions after which it is noted how far the log was read, though nothing in it was to be written: the store keeps
more than that."""


class HistoryRecorder:
    """One at a time writes a file. Safe for use by several threads. Whatever is raised, the next call begins with what
    the file has."""

    def __init__(self, file: Path, clock: Clock, *, retention: float, every: float) -> None:
        """`retention`: seconds for which what is over is kept. `every`: seconds from sample to sample."""
        self.every = every
        self._file = file
        self._clock = clock
        self._retention = retention
        self._lock = threading.Lock()
        self._opened: tuple[sqlite3.Connection, HistoryWriter] | None = None

    def position(self, store: str) -> int | None:
        """The revision up to which the log of that store is recorded; None where nothing is known of it."""
        with self._writing() as writer:
            return writer.position(store)

    def take(self, store: str, events: Sequence[WatchEvent]) -> None:
        """Record what these say, the next ones after `position`. Raises StoreUnavailable."""
        for at in range(0, len(events), BATCH):
            some = events[at : at + BATCH]
            with self._writing() as writer:
                now = self._now()
                for event in some:
                    self._observe(writer, event.document, now, deleted=event.type == "DELETED")
                known = writer.position(store)
                if writer.wrote or known is None or some[-1].revision - known >= _KEEP_UP:
                    writer.move_to(store, some[-1].revision)

    def compare(self, store: str, documents: Iterable[Document], revision: int) -> None:
        """Record all partitions, nodes and reservations as they are at the revision, whatever was recorded before.
        Raises StoreUnavailable."""
        with self._writing() as writer:
            now = self._now()
            seen: set[str] = set()
            reservations: set[str] = set()
            for document in documents:
                self._observe(writer, document, now, deleted=False)
                metadata = document.get("metadata") or {}
                seen.add(str(metadata.get("uid")))
                if _remembered_as(document) == "reservation":
                    reservations.add(str(metadata.get("name")))
            writer.close_missing(seen, now)
            writer.end_missing_reservations(reservations, now)
            writer.move_to(store, revision)

    def sampled(self, node: str, uses: Mapping[str, Sample]) -> None:
        """How much of its leases was used on the node just now, by their ids. Raises StoreUnavailable."""
        with self._writing() as writer:
            writer.sample(node, uses, self._now(), round(self.every * 1000))

    def nodes(self) -> Collection[str]:
        """Those with leases that run. Raises StoreUnavailable."""
        with self._writing() as writer:
            return {lease.node for lease in writer.running.values()}

    def forget(self) -> int:
        """Delete what has been over for longer than it is kept; how many leases that were. Raises StoreUnavailable."""
        gone = 0
        before = self._now() - round(self._retention * 1000)
        while True:
            with self._writing() as writer:
                some = retention.forget(writer.connection, before)
                writer.names_changed()
            gone += some
            if some < retention.BATCH:
                return gone

    def reload(self) -> None:
        """Another process may have written: forget what is known of the file."""
        with self._lock:
            self._close()

    def close(self) -> None:
        self.reload()

    def _observe(self, writer: HistoryWriter, document: Document, now: int, *, deleted: bool) -> None:
        """What is damaged is left out."""
        try:
            match _remembered_as(document):
                case "lease":
                    _partition(writer, document, now, deleted=deleted)
                case "node":
                    writer.node(facts.node(document), now, deleted=deleted)
                case "reservation":
                    held = None if deleted else facts.reservation(document)
                    writer.reservation(str(document["metadata"]["name"]), held, now)
        except MALFORMED as error:
            _log.warning("left out a damaged object", error=repr(error))

    def _now(self) -> int:
        return facts.to_milliseconds(self._clock.now())

    @contextmanager
    def _writing(self) -> Iterator[HistoryWriter]:
        """One transaction. Where it fails, what is in memory goes too: it may be more than what is in the file."""
        with self._lock:
            try:
                connection, writer = self._open()
                writer.wrote = False
                connection.execute("BEGIN IMMEDIATE")
                yield writer
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._close()
                if schema.is_damaged(self._file, error):
                    schema.set_aside(self._file)
                raise schema.unavailable(self._file, error) from error
            except BaseException:
                self._close()
                raise

    def _open(self) -> tuple[sqlite3.Connection, HistoryWriter]:
        if self._opened is None:
            connection = schema.open_file(self._file)
            self._opened = connection, HistoryWriter(connection)
        return self._opened

    def _close(self) -> None:
        if self._opened is not None:
            # What was begun and not committed goes with the connection.
            self._opened[0].close()
            self._opened = None


def _remembered_as(document: Document) -> str:
    kind = BY_NAME.get(str(document.get("kind")))
    return kind.remembered_as if kind is not None else ""


def _partition(writer: HistoryWriter, document: Document, now: int, *, deleted: bool) -> None:
    promise = facts.promise(document)
    writer.promise(promise._replace(latest=None, over=True) if deleted else promise, now)
    lease = facts.lease(document)
    if lease is None or not lease.granted:
        return
    if deleted and lease.end is None:
        lease = lease._replace(end=max(lease.start, now), phase="Released")
    writer.lease(lease, promise.key)
