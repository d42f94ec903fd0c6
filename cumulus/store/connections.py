"""Connections to the store's file: one that writes, behind a lock, and a pool of those that read."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cumulus.errors import StoreReplaced, StoreUnavailable
from cumulus.lib import files, locks
from cumulus.lib.sqlite_file import identity
from cumulus.store import schema
from cumulus.store.sqlite_errors import read_only, translated
from cumulus.store.writer_lock import WriterLock

_IDLE_READERS = 8


class Connections:
    """Opens, lends and closes. While it is open a shared lock on the directory keeps `restore` away."""

    def __init__(self, directory: Path, busy_seconds: float) -> None:
        self.file = directory / schema.FILE
        self._busy_seconds = busy_seconds
        self._write_lock = threading.Lock()
        self._writer_lock = WriterLock(directory, busy_seconds)
        self._writer: sqlite3.Connection | None = None
        self._pool_lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        schema.make_directory(directory)
        self._directory_lock = _lock_shared(directory)
        try:
            schema.prepare(directory)
            self._writable = os.access(directory, os.W_OK) and os.access(self.file, os.W_OK)
            self._identity = identity(self.file)
            with self.reading() as connection:
                schema.check_tables(connection, self.file)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One write transaction: committed durably when the block ends, rolled back when it raises."""
        with self._write_lock, translated(self.file):
            connection = self._open_writer()
            try:
                self._writer_lock.enter()
                try:
                    connection.execute("BEGIN IMMEDIATE")
                finally:
                    self._writer_lock.leave()
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise

    @contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """The writing connection outside of a transaction, for what SQLite does in one of its own. No other thread of
        this process writes meanwhile."""
        with self._write_lock, translated(self.file):
            connection = self._open_writer()
            self._writer_lock.enter()
            try:
                yield connection
            finally:
                self._writer_lock.leave()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for one statement."""
        with translated(self.file):
            connection, immutable = self._take()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._give_back(connection, immutable)

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection for several statements that see one state."""
        with self.reading() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    def close(self) -> None:
        """Wait for the write in progress, then close everything."""
        with self._write_lock, self._pool_lock:
            if self._closed:
                return
            self._closed = True
            for connection in [*self._idle, self._writer]:
                if connection is not None:
                    connection.close()
            self._idle.clear()
            self._writer = None
            self._writer_lock.close()
            os.close(self._directory_lock)

    def _open_writer(self) -> sqlite3.Connection:
        self._check_open()
        if not self._writable:
            raise read_only(self.file)
        self._check_identity()
        if self._writer is None:
            self._writer = schema.connect(self.file, write=True, busy_seconds=self._busy_seconds)
            # The log has been made by now and stays while this connection does. SQLite syncs what it writes there,
            # but not its name where it was built so (SQLITE_DISABLE_DIRSYNC, as Debian does): a power cut might then
            # take the whole log.
            files.sync_directory(self.file.parent)
        return self._writer

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        """Undo; a connection that cannot even do that is dropped, and the next write opens a fresh one."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._writer = None
            connection.close()

    def _take(self) -> tuple[sqlite3.Connection, bool]:
        with self._pool_lock:
            self._check_open()
            self._check_identity()
            if self._idle:
                return self._idle.pop(), False
        if self._writable:
            return schema.connect(self.file, write=True, busy_seconds=self._busy_seconds), False
        return self._open_read_only()

    def _open_read_only(self) -> tuple[sqlite3.Connection, bool]:
        """SQLite reads a WAL file only with its shared memory. Where that is neither there nor can be made, nobody
        has the store open, and the file can be read as one that does not change, for one operation."""
        at_rest = not Path(f"{self.file}-wal").exists()
        connection = schema.connect(self.file, write=False, busy_seconds=self._busy_seconds, immutable=at_rest)
        return connection, at_rest

    def _give_back(self, connection: sqlite3.Connection, immutable: bool) -> None:
        with self._pool_lock:
            if not immutable and not self._closed and len(self._idle) < _IDLE_READERS:
                self._idle.append(connection)
                return
        connection.close()

    def _check_identity(self) -> None:
        """What is open would go on working without its name; but nobody else would read what is written there."""
        found = identity(self.file)
        if found != self._identity:
            raise StoreReplaced(
                f"{self.file} was {'removed' if found is None else 'replaced'} while it was in use",
                hint="put it back, or restore a backup with `cumulus restore FILE`; then start this process again",
            )

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")


def _lock_shared(directory: Path) -> int:
    """A descriptor that holds a shared lock on the directory. Raises StoreUnavailable during a restore."""
    with translated(directory / schema.FILE):
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            who, fix = locks.blame(directory)
            raise StoreUnavailable(
                f"{directory} is being restored from a backup by {who}",
                hint=fix,
            ) from error
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor
