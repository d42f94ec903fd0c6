"""The ledger's file: one SQLite database in WAL mode, opened safely by many processes and threads.

Below `ledger`, which gives it meaning. The schema itself refuses more than 100 % of a device: triggers keep the
sums, CHECK constraints bound them. Writers queue on a lock file, since SQLite's own waiting sleeps up to 100 ms.

Group commit: a writer lets go of the lock first and syncs the write-ahead log then, so that the syncs of several
processes overlap. What it answers is on the disk, and so is all that it could have read, since the log is one file
written in order; SQLite itself (`synchronous=NORMAL`) syncs the log before it moves pages from it to the database.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cumulus.chronos import monitor_claim, schema
from cumulus.chronos.home import LEDGER, check_private
from cumulus.errors import LedgerFull, LedgerReplaced, LedgerUnavailable
from cumulus.lib import files, locks, sqlite_file
from cumulus.lib.sqlite_file import ChangeCounter, Failure, FileIdentity

_WRITERS = "ledger.lock"
_CHANGES = "changes-shm"
_LOCK_TIMEOUT = 10.0
_LOCK_SPIN = 0.005
"""Seconds of trying again at once: as long as a few writers take."""

_LOCK_NAP = 0.0002

# A connection made before a fork must neither be used nor closed by the child (sqlite.org/howtocorrupt.html, 2.6).
# Neither is one to a file that was replaced closed: SQLite would tidy up by names that are another file's now.
_inherited: list[sqlite3.Connection | None] = []
_forks = 0
"""How often this process has become another: cheaper to look at than its pid."""


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class Database:
    """Connections to one home. Every method raises `LedgerUnavailable` where the file cannot be used.

    The file that is open is the one at its path, looked at with each call. Where it was removed, moved or replaced, the
    next call opens what is there now, unless a monitor still ends the leases of the one that was: see `claim`.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / LEDGER
        self._forks = _forks
        self._pinned = False
        self._identity: FileIdentity | None = None
        self.generation = 0
        """Grows each time a file is opened: what was learned of an earlier one does not hold any more."""
        self._connection: sqlite3.Connection | None = None
        self._lock_file = -1
        self._log_file = -1
        self._changes: ChangeCounter | None = None
        self._mutex = threading.RLock()

    def version(self) -> int | None:
        """Equal to what it was before only if nothing was written in between. None while a writer commits, or where
        this process has not opened the file yet."""
        changes = self._changes
        number = 1 if changes is None else changes.now()
        return None if number & 1 else number

    def check(self) -> int:
        """See that the file is open that is at its path. Returns the `generation`. Raises LedgerReplaced."""
        try:
            self._open()
        except sqlite3.Error as error:
            raise self._translate(error) from error
        return self.generation

    def is_missing(self) -> bool:
        """Whether there is no ledger yet, and none that was lost: a reader need not make one. Raises LedgerReplaced."""
        if self._connection is not None:
            return False
        try:
            os.stat(self.path)
        except FileNotFoundError:
            self._refuse_lost()
            if os.path.exists(self.home):
                check_private(self.home)
            return True
        except OSError as error:
            raise self._unusable(error) from error
        return False

    @property
    def replaced(self) -> bool:
        """Whether the file that is open is not at its path any more."""
        return self._connection is not None and self._identity != sqlite_file.identity(self.path)

    def pin(self) -> FileIdentity:
        """Go on with the file that is open, whatever becomes of its name: what it knows is not lost then."""
        self.check()
        self._pinned = True
        assert self._identity is not None
        return self._identity

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for single SELECTs, each a consistent snapshot; never waits for a writer."""
        try:
            connection = self._open()
            with self._mutex:
                yield connection
        except sqlite3.Error as error:
            raise self._translate(error) from error

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction that excludes all other writers: durable when the block ends, undone when it raises.

        One that is not `durable` may be lost in a power cut as long as no durable one has followed.
        """
        try:
            connection = self._open()
            with self._mutex:
                changes = self._changes
                assert changes is not None
                self._acquire()
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    try:
                        yield connection
                        changes.begin()
                        connection.execute("COMMIT")
                    except BaseException:
                        if connection.in_transaction:
                            connection.execute("ROLLBACK")
                        raise
                    finally:
                        changes.done()
                finally:
                    fcntl.flock(self._lock_file, fcntl.LOCK_UN)
                log_file = self._log_file
        except sqlite3.Error as error:
            raise self._translate(error) from error
        if not durable:
            return
        # Also where nothing was written: what this caller is told may be the unsynced work of one that was killed.
        try:
            os.fdatasync(log_file)
        except OSError as error:
            raise self._unusable(error) from error

    def idle(self) -> bool:
        """Whether no lease is live."""
        with self.read() as db:
            return not db.execute("SELECT EXISTS (SELECT 1 FROM lease WHERE state <> 'Ended')").fetchone()[0]

    def close(self) -> None:
        """Close this process's connection; the next call opens another."""
        if self._connection is not None and self._forks == _forks:
            with self._mutex:
                self._connection.close()
                os.close(self._lock_file)
                os.close(self._log_file)
        self._connection = self._changes = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._forks == _forks and (self._pinned or not self.replaced):
            return self._connection
        if self._forks != _forks:
            _inherited.append(self._connection)
            self._mutex = threading.RLock()
            self._connection = None
            self._forks = _forks
        with self._mutex:
            if self._connection is not None and not self._pinned and self.replaced:
                _inherited.append(self._connection)
                self._connection = self._changes = None
                os.close(self._lock_file)
                os.close(self._log_file)
            if self._connection is None:
                self._connect()
            assert self._connection is not None
            return self._connection

    def _connect(self) -> None:
        self._refuse_lost()
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_private(self.home)
            lock_file = os.open(self.home / _WRITERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Made here for its mode. One that is there must not be opened and closed: that would drop the locks that
            # another connection of this process holds on it (sqlite.org/howtocorrupt.html, 2.2).
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise self._unusable(error) from error
        self._lock_file = lock_file
        try:
            self._acquire()
            try:
                connection = self._prepare()
                # It exists for as long as a connection is open.
                self._log_file = os.open(f"{self.path}-wal", os.O_RDWR | os.O_CLOEXEC)
                if os.fstat(self._log_file).st_size == 0:
                    # It is new: its name too must outlast a power cut.
                    self._sync_directory()
                try:
                    self._changes = ChangeCounter(self.home / _CHANGES)
                except OSError as error:
                    raise self._unusable(error) from error
                self._identity = sqlite_file.identity(self.path)
                self._connection = connection
                self.generation += 1
            finally:
                fcntl.flock(lock_file, fcntl.LOCK_UN)
        except BaseException:
            os.close(lock_file)
            raise

    def _refuse_lost(self) -> None:
        """Raises `LedgerReplaced` where a monitor looks after another ledger than what is here now."""
        pid = monitor_claim.of_another_ledger(self.home)
        if pid is not None:
            raise LedgerReplaced(
                f"the ledger in {self.home} was removed, moved or replaced, and its monitor, process {pid}, still ends"
                " the leases that it knew",
                hint=f"put it back; or end what runs on the devices, then run `kill {pid}`: a new ledger is made with"
                " no leases",
            )

    def _prepare(self) -> sqlite3.Connection:
        """Under the lock: open the file and make or check its schema."""
        # Small pages: a commit writes each page that it touches, and a lease touches several.
        pragmas = ("page_size=2048", "wal_autocheckpoint=4000", "synchronous=NORMAL")
        connection = sqlite_file.connect(self.path, busy_seconds=_LOCK_TIMEOUT, pragmas=pragmas)
        try:
            if schema.prepare(connection, self.path):
                self._sync_directory()
        except BaseException:
            connection.close()
            raise
        return connection

    def _sync_directory(self) -> None:
        for directory in (self.home, self.home.parent):
            files.sync_directory(directory)

    def _acquire(self) -> None:
        """Take the writers' lock."""
        if not locks.acquire(self._lock_file, _LOCK_TIMEOUT, spin=_LOCK_SPIN, pause=_LOCK_NAP):
            path = self.home / _WRITERS
            who, fix = locks.blame(path)
            raise LedgerUnavailable(f"{path} has been held for {_LOCK_TIMEOUT:.0f} s by {who}", hint=fix)

    def _unusable(self, error: OSError) -> LedgerUnavailable:
        if sqlite_file.failure(self.path, error) is Failure.FULL:
            return self._full()
        hint = "make it writable for this user, or set CHRONOS_HOME to a directory that is"
        return LedgerUnavailable(f"the ledger {self.home} cannot be used: {error.strerror}", hint=hint)

    def _full(self) -> LedgerFull:
        return LedgerFull(
            f"the disk of the ledger {self.path} is full", hint=f"free some space on the disk of {self.home}"
        )

    def _translate(self, error: sqlite3.Error) -> LedgerUnavailable:
        text = f"the ledger {self.path} cannot be used: {error}"
        match sqlite_file.failure(self.path, error):
            case Failure.FULL:
                return self._full()
            case Failure.DAMAGED | Failure.NO_DATABASE:
                hint = f"end what runs on the devices, then move {self.home} away: a new ledger is made with no leases"
                return LedgerUnavailable(f"the ledger {self.path} is damaged: {error}", hint=hint)
            case Failure.READ_ONLY | Failure.CANNOT_OPEN:
                return LedgerUnavailable(
                    text, hint=f"make {self.home} and its files writable for this user, or set CHRONOS_HOME"
                )
            case Failure.BUSY:
                who, fix = locks.blame(f"{self.path}-shm", self.path)
                return LedgerUnavailable(f"{text}, by {who}", hint=fix)
            case _:
                return LedgerUnavailable(text, hint=f"check the disk and the permissions of {self.home}")
