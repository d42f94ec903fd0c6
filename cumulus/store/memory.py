"""A store in memory: the reference for the others, and what tests and the simulation use.

It keeps rows as bytes, as the others do, so that no document is ever shared with a caller.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from cumulus.clock import Clock, SystemClock, timestamp
from cumulus.errors import StoreUnavailable, UsageError
from cumulus.resources.key import Document, Key
from cumulus.store import listing, rules
from cumulus.store.base import Admission, Documents, Fence, PackedPage, Page, Query, Retention, Watch, Write
from cumulus.store.codec import DELETED, LogRow, decode, event
from cumulus.store.single import SingleWrites
from cumulus.store.watch import Hub, LogSlice

Candidates = list[listing.Candidate]


class MemoryStore(SingleWrites):
    """See `base.Store`. Safe for use by many threads; gone with the process."""

    def __init__(
        self, clock: Clock | None = None, retention: Retention | None = None, *, admission: Admission | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self._retention = retention or Retention()
        self._admission = admission
        self._lock = threading.RLock()
        self._log: dict[int, LogRow] = {}
        self._times: dict[int, datetime] = {}
        self._current: dict[Key, LogRow] = {}
        self._revision = 0
        self._compacted = 0
        self._closed = False
        self._hub = Hub(self._read_log, self.revision)

    def transact(self, writes: Sequence[Write], *, fence: Fence | None = None) -> Documents:
        with self._open():
            now = self._clock.now()
            made = rules.prepare(
                writes, fence, self._stored, revision=self._revision, now=timestamp(now), new_uid=rules.new_uid,
                admission=self._admission,
            )  # fmt: skip
            for row in made.rows:
                self._append(row, now)
            self._hub.offer(made.rows)
        return [decode(answer) for answer in made.answers]

    def get(self, key: Key) -> Document:
        with self._open():
            row = self._current.get(key)
        if row is None:
            raise rules.not_found(key)
        return decode(row.document)

    def list(self, query: Query) -> Page:
        return listing.page(*self._listed(query))

    def list_packed(self, query: Query) -> PackedPage:
        return listing.packed_page(*self._listed(query))

    def _listed(self, query: Query) -> tuple[listing.Listing, int, Candidates]:
        wanted = listing.parse(query)
        with self._open():
            revision = self._revision if wanted.revision is None else wanted.revision
            listing.check_revision(revision, compacted=self._compacted, newest=self._revision)
            then = self._then(wanted.kind, revision)
            return wanted, revision, list(listing.overlaid(self._candidates(wanted), then, wanted))

    def watch(self, *, since: int, kinds: frozenset[str] | None = None) -> Watch:
        with self._open():
            listing.check_revision(since, compacted=self._compacted, newest=self._revision)
            return self._hub.watch(since, kinds)

    def revision(self) -> int:
        with self._open():
            return self._revision

    def namespaces(self) -> Sequence[str]:
        with self._open():
            return sorted({key.namespace for key in self._current} - {""})

    def compact(self, revision: int) -> None:
        with self._open():
            if revision > self._revision:
                raise UsageError(f"cannot compact to revision {revision}: the newest is {self._revision}")
            for row in [self._log[r] for r in range(self._compacted + 1, revision + 1)]:
                self._drop(row.previous)
                if row.type == DELETED:
                    self._drop(row.revision)
            self._compacted = max(self._compacted, revision)

    def retain(self) -> int:
        with self._open():
            oldest = self._clock.now() - timedelta(seconds=self._retention.seconds)
            revision = self._compacted
            while revision < self._revision - self._retention.revisions and self._times[revision + 1] <= oldest:
                revision += 1
            self.compact(revision)
            return self._compacted

    def close(self) -> None:
        self._closed = True
        self._hub.close()

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            yield

    def _stored(self, key: Key) -> Document | None:
        row = self._current.get(key)
        return decode(row.document) if row is not None else None

    def _append(self, row: LogRow, now: datetime) -> None:
        self._revision = row.revision
        self._log[row.revision] = row
        self._times[row.revision] = now
        if row.type == DELETED:
            del self._current[row.key]
        else:
            self._current[row.key] = row

    def _drop(self, revision: int) -> None:
        self._log.pop(revision, None)
        self._times.pop(revision, None)

    def _candidates(self, wanted: listing.Listing) -> Candidates:
        found = [
            ((key.namespace, key.name), row.document)
            for key, row in self._current.items()
            if key.kind == wanted.kind and wanted.namespace in (None, key.namespace)
        ]
        return sorted(candidate for candidate in found if candidate[0] > wanted.after)

    def _then(self, kind: str, revision: int) -> dict[listing.ListPosition, bytes | None]:
        """Objects of the kind that changed after `revision`, as they were at it."""
        then: dict[listing.ListPosition, bytes | None] = {}
        for later in range(revision + 1, self._revision + 1):
            row = self._log[later]
            place = (row.key.namespace, row.key.name)
            if row.key.kind == kind and place not in then:
                then[place] = self._log[row.previous].document if row.previous else None
        return then

    def _read_log(self, after: int, limit: int) -> LogSlice:
        with self._open():
            listing.check_revision(after, compacted=self._compacted, newest=self._revision)
            upto = min(self._revision, after + limit)
            rows = [self._log[revision] for revision in range(after + 1, upto + 1)]
        return LogSlice([event(row) for row in rows], upto)
