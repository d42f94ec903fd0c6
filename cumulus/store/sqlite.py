"""The store in one SQLite file: durable, shared by many threads and processes.

transact -> commit (group) -> rules.prepare on what is stored -> tables.append -> COMMIT -> signal, offer -> watches
get, list, watch -> a reader's connection, which sees one snapshot and never waits for a writer
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from cumulus.clock import Clock, SystemClock, timestamp
from cumulus.errors import CumulusError, StoreUnavailable, UsageError
from cumulus.resources.key import Document, Key
from cumulus.store import listing, rules, shrink, tables
from cumulus.store.base import Admission, Documents, Fence, PackedPage, Page, Query, Retention, Watch, Write
from cumulus.store.codec import LogRow, decode, event
from cumulus.store.commit import GroupCommit, Job
from cumulus.store.connections import Connections
from cumulus.store.kept_lists import KeptLists
from cumulus.store.notify import Notifier, Signal
from cumulus.store.single import SingleWrites
from cumulus.store.sqlite_errors import DiskFull
from cumulus.store.watch import Hub, LogSlice

T = TypeVar("T")
_Jobs = list[Job]
_Rows = list[LogRow]

KEPT_BYTES = 24 * 2**20
"""Of lists as they were read last: some 20,000 jobs."""
COMPACTION_STEP = 1000
"""Revisions forgotten in one transaction, so that writers never wait long."""


class SqliteStore(SingleWrites):
    """See `base.Store`. `directory` is made where it is missing. A directory this user may not write to can be
    read, as far as SQLite allows it. Without `admission` every write passes."""

    def __init__(
        self,
        directory: Path,
        clock: Clock | None = None,
        retention: Retention | None = None,
        *,
        admission: Admission | None = None,
        busy_seconds: float = 10.0,
    ) -> None:
        self._clock = clock or SystemClock()
        self._retention = retention or Retention()
        self._admission = admission
        self._connections = Connections(directory, busy_seconds)
        self._group = GroupCommit(self._commit)
        self._signal = Signal(directory)
        self._hub = Hub(self._read_log, self.revision)
        self._notifier: Notifier | None = None
        self._opening = threading.Lock()
        self._directory = directory
        self._kept_lists = KeptLists(KEPT_BYTES)

    def transact(self, writes: Sequence[Write], *, fence: Fence | None = None) -> Documents:
        return [decode(answer) for answer in self._group.run(writes, fence)]

    def transact_each(
        self, transactions: Sequence[Sequence[Write]], *, fence: Fence | None = None
    ) -> Sequence[Documents | BaseException]:
        done = self._group.run_each(transactions, fence)
        return [[decode(answer) for answer in job.answers or ()] if job.error is None else job.error for job in done]

    def get(self, key: Key) -> Document:
        with self._connections.reading() as connection:
            document = tables.stored(connection, key)
        if document is None:
            raise rules.not_found(key)
        return document

    def list(self, query: Query) -> Page:
        return self._page(query, listing.page)

    def list_packed(self, query: Query) -> PackedPage:
        wanted = listing.parse(query)
        if wanted.selects or wanted.limit is not None or wanted.revision is not None:
            return self._page(query, listing.packed_page)
        with self._connections.snapshot() as connection:
            return PackedPage(*self._kept_lists.read(connection, wanted))

    def _page(self, query: Query, page: Callable[[listing.Listing, int, Iterable[listing.Candidate]], T]) -> T:
        wanted = listing.parse(query)
        with self._connections.snapshot() as connection:
            compacted, newest = tables.bounds(connection)
            revision = newest if wanted.revision is None else wanted.revision
            listing.check_revision(revision, compacted=compacted, newest=newest)
            then = {} if revision == newest else tables.changed_since(connection, wanted.kind, revision)
            found = tables.candidates(connection, wanted)
            return page(wanted, revision, listing.overlaid(found, then, wanted) if then else found)

    def watch(self, *, since: int, kinds: frozenset[str] | None = None) -> Watch:
        with self._connections.snapshot() as connection:
            compacted, newest = tables.bounds(connection)
        listing.check_revision(since, compacted=compacted, newest=newest)
        with self._opening:
            if self._notifier is None:
                self._notifier = Notifier(self._directory, self._hub.wake)
                self._notifier.start()
        return self._hub.watch(since, kinds)

    def revision(self) -> int:
        with self._connections.reading() as connection:
            return tables.bounds(connection)[1]

    def namespaces(self) -> Sequence[str]:
        with self._connections.reading() as connection:
            return tables.namespaces(connection)

    def compact(self, revision: int) -> None:
        while True:
            with self._connections.writing() as connection:
                compacted, newest = tables.bounds(connection)
                if revision > newest:
                    raise UsageError(f"cannot compact to revision {revision}: the newest is {newest}")
                if revision <= compacted:
                    return
                tables.forget(connection, compacted, min(revision, compacted + COMPACTION_STEP))

    def retain(self) -> int:
        oldest = self._clock.now() - timedelta(seconds=self._retention.seconds)
        with self._connections.snapshot() as connection:
            compacted, newest = tables.bounds(connection)
            young = tables.first_younger(connection, compacted, int(oldest.timestamp() * 1000))
        keep_from = newest if young is None else young - 1
        revision = max(compacted, min(keep_from, newest - self._retention.revisions))
        if revision > compacted:
            self.compact(revision)
        with suppress(StoreUnavailable):
            # A disk that is too full for it, say: the next round tries again.
            shrink.give_back(self._connections)
        return revision

    def close(self) -> None:
        with self._opening:
            notifier, self._notifier = self._notifier, None
        if notifier is not None:
            notifier.close()
        self._hub.close()
        self._connections.close()
        self._signal.close()

    def _commit(self, jobs: _Jobs) -> None:
        """Commit a batch. When the disk is full each job gets its own try, so that a large one takes no other
        with it."""
        try:
            self._commit_together(jobs)
        except DiskFull:
            if len(jobs) == 1:
                raise
            for job in jobs:
                try:
                    self._commit_together([job])
                except StoreUnavailable as error:
                    job.error = error

    def _commit_together(self, jobs: _Jobs) -> None:
        now = self._clock.now()
        with self._connections.writing() as connection:
            rows = self._plan(connection, jobs, timestamp(now))
            if rows:
                tables.append(connection, rows, int(now.timestamp() * 1000))
        if rows:
            self._signal.send()
            self._hub.offer(rows)

    def _plan(self, connection: sqlite3.Connection, jobs: _Jobs, now: str) -> _Rows:
        """The rows of all jobs; each sees those before it. A job that breaks a rule gets its error and adds none."""
        seen: dict[Key, Document | None] = {}
        keys = [key for job in jobs for key in rules.keys(job.writes)]
        if len(keys) > 1:
            seen = tables.stored_many(connection, keys)

        def read(key: Key) -> Document | None:
            if key not in seen:
                seen[key] = tables.stored(connection, key)
            return seen[key]

        rows: _Rows = []
        revision = tables.bounds(connection)[1]
        for job in jobs:
            job.error = None
            try:
                made = rules.prepare(
                    job.writes, job.fence, read, revision=revision + len(rows), now=now, new_uid=rules.new_uid,
                    admission=self._admission,
                )  # fmt: skip
            except CumulusError as error:
                job.error = error
                continue
            for key, document in made.current.items():
                before, after = _owners(seen.get(key)), _owners(document)
                if before != after:
                    tables.set_owners(connection, key, before, after)
            seen |= made.current
            rows += made.rows
            job.answers = made.answers
        return rows

    def _read_log(self, after: int, limit: int) -> LogSlice:
        with self._connections.snapshot() as connection:
            compacted, newest = tables.bounds(connection)
            listing.check_revision(after, compacted=compacted, newest=newest)
            rows = tables.rows_after(connection, after, limit) if after < newest else []
        return LogSlice([event(row) for row in rows], rows[-1].revision if rows else after)


def _owners(document: Document | None) -> frozenset[str]:
    return rules.owner_uids(document) if document is not None else frozenset()
