"""The ledger's file: one SQLite database in WAL mode, opened safely by many processes and threads.

Below `ledger`, which gives it meaning. The schema itself refuses more than 100 % of a device: triggers keep the
sums, CHECK constraints bound them. Writers queue on a lock file, since SQLite's own waiting sleeps up to 100 ms.

Group commit: a writer lets go of the lock first and syncs the write-ahead log then, so that the syncs of several
processes overlap. What it answers is on the disk, and so is all that it could have read, since the log is one file
written in order; SQLite itself (`synchronous=NORMAL`) syncs the log before it moves pages from it to the database.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cumulus.chronos import monitor_claim
from cumulus.chronos.change_counter import Changes
from cumulus.chronos.home import LEDGER, check_private
from cumulus.errors import LedgerFull, LedgerReplaced, LedgerUnavailable
from cumulus.lib import files, locks

VERSION = 2
_LOCK_TIMEOUT = 10.0
_LOCK_SPIN = 0.005
"""Seconds of trying again at once: as long as a few writers take."""

_LOCK_NAP = 0.0002

_SCHEMA = """
CREATE TABLE device (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    present INTEGER NOT NULL,
    name TEXT NOT NULL,
    vendor TEXT NOT NULL,
    type TEXT NOT NULL,
    memory_bytes INTEGER NOT NULL CHECK (memory_bytes > 0),
    driver TEXT NOT NULL,
    platform_index INTEGER NOT NULL,
    device_index INTEGER NOT NULL,
    enforcement TEXT NOT NULL DEFAULT 'none',
    token INTEGER NOT NULL DEFAULT 0,
    used_memory INTEGER NOT NULL DEFAULT 0 CHECK (used_memory BETWEEN 0 AND memory_bytes),
    used_compute INTEGER NOT NULL DEFAULT 0 CHECK (used_compute BETWEEN 0 AND 1000)
);
CREATE TABLE lease (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    device_id TEXT NOT NULL REFERENCES device (id),
    memory_bytes INTEGER NOT NULL CHECK (memory_bytes > 0),
    compute INTEGER NOT NULL CHECK (compute BETWEEN 1 AND 1000),
    user TEXT NOT NULL,
    owner TEXT NOT NULL,
    grace REAL NOT NULL,
    seconds REAL NOT NULL,
    token INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('Active', 'Ending', 'Ended')),
    granted_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    deadline REAL NOT NULL,
    ending_since REAL,
    end_reason TEXT,
    ended_at TEXT NOT NULL DEFAULT '',
    name TEXT NOT NULL DEFAULT ''
);
CREATE TABLE process (
    lease TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start INTEGER NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('root', 'supervisor', 'holder')),
    PRIMARY KEY (lease, pid, start)
) WITHOUT ROWID;
CREATE TABLE session (
    lease TEXT NOT NULL,
    sid INTEGER NOT NULL,
    start INTEGER NOT NULL,
    PRIMARY KEY (lease, sid)
) WITHOUT ROWID;
CREATE TABLE cgroup (
    lease TEXT NOT NULL,
    directory TEXT NOT NULL,
    PRIMARY KEY (lease, directory)
) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TRIGGER taken AFTER INSERT ON lease BEGIN
    UPDATE device SET used_memory = used_memory + new.memory_bytes, used_compute = used_compute + new.compute,
        token = max(token, new.token) WHERE id = new.device_id;
END;
CREATE TRIGGER freed AFTER UPDATE OF state ON lease WHEN new.state = 'Ended' AND old.state <> 'Ended' BEGIN
    UPDATE device SET used_memory = used_memory - old.memory_bytes, used_compute = used_compute - old.compute
        WHERE id = old.device_id;
    DELETE FROM process WHERE lease = old.id;
    DELETE FROM session WHERE lease = old.id;
END;
"""
_SINCE_2 = """
CREATE INDEX live ON lease (state, deadline) WHERE state <> 'Ended';
CREATE TABLE ended (
    since REAL NOT NULL,
    lease TEXT NOT NULL,
    PRIMARY KEY (since, lease)
) WITHOUT ROWID;
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    event TEXT NOT NULL,
    lease TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    uid INTEGER NOT NULL
);
"""
_FROM_1 = f"""
DROP INDEX by_state;
DROP INDEX ended;
ALTER TABLE audit RENAME TO audit_1;
{_SINCE_2}
INSERT INTO ended SELECT coalesce(ended_since, 0), id FROM lease WHERE state = 'Ended';
INSERT INTO audit SELECT seq, json_extract(line, '$.time'), json_extract(line, '$.event'),
    json_extract(line, '$.lease'), json_extract(line, '$.expiresAt'), json_extract(line, '$.uid')
    FROM audit_1 WHERE line <> '';
INSERT INTO audit SELECT seq, '', '', '', '', 0 FROM audit_1 WHERE line = '';
DROP TABLE audit_1;
"""

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
        self._identity: monitor_claim.FileIdentity | None = None
        self.generation = 0
        """Grows each time a file is opened: what was learned of an earlier one does not hold any more."""
        self._connection: sqlite3.Connection | None = None
        self._lock_file = -1
        self._log_file = -1
        self._changes: Changes | None = None
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

    @property
    def replaced(self) -> bool:
        """Whether the file that is open is not at its path any more."""
        return self._connection is not None and self._identity != monitor_claim.identity(self.path)

    def pin(self) -> monitor_claim.FileIdentity:
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
        pid = monitor_claim.of_another_ledger(self.home)
        if pid is not None:
            raise LedgerReplaced(
                f"the ledger in {self.home} was removed, moved or replaced, and its monitor, process {pid}, still ends"
                " the leases that it knew",
                hint=f"put it back; or end what runs on the devices, then run `kill {pid}`: a new ledger is made with"
                " no leases",
            )
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_private(self.home)
            lock_file = os.open(self.home / "ledger.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
                    self._changes = Changes(self.home)
                except OSError as error:
                    raise self._unusable(error) from error
                self._identity = monitor_claim.identity(self.path)
                self._connection = connection
                self.generation += 1
            finally:
                fcntl.flock(lock_file, fcntl.LOCK_UN)
        except BaseException:
            os.close(lock_file)
            raise

    def _prepare(self) -> sqlite3.Connection:
        """Under the lock: open the file and make or check its schema."""
        connection = sqlite3.connect(self.path, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            # Small pages: a commit writes each page that it touches, and a lease touches several.
            connection.execute("PRAGMA page_size=2048")
            connection.execute("PRAGMA wal_autocheckpoint=4000")
            connection.execute("PRAGMA synchronous=NORMAL")
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found > VERSION:
                raise LedgerUnavailable(
                    f"{self.path} is of ledger version {found}; this Chronos knows version {VERSION}",
                    hint="upgrade Chronos on this node, or set CHRONOS_HOME to another directory",
                )
            if found == 0:
                if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise LedgerUnavailable(
                        f"{self.path} is a database of something else", hint="set CHRONOS_HOME to another directory"
                    )
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(f"BEGIN;{_SCHEMA}{_SINCE_2}PRAGMA user_version={VERSION};COMMIT;")
                self._sync_directory()
            elif found == 1:
                connection.executescript(f"BEGIN;{_FROM_1}PRAGMA user_version={VERSION};COMMIT;")
            if "name" not in {column for _, column, *_ in connection.execute("PRAGMA table_info(lease)")}:
                # No version of its own: one that does not know it does without.
                connection.execute("ALTER TABLE lease ADD COLUMN name TEXT NOT NULL DEFAULT ''")
        except BaseException:
            connection.close()
            raise
        return connection

    def _sync_directory(self) -> None:
        for directory in (self.home, self.home.parent):
            files.sync_directory(directory)

    def _acquire(self) -> None:
        """Take the writers' lock. It polls: a blocking flock has no time-out, and a stopped holder would hang all."""
        start = time.monotonic()
        while True:
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                waited = time.monotonic() - start
                if waited > _LOCK_TIMEOUT:
                    path = self.home / "ledger.lock"
                    who, fix = locks.blame(path)
                    raise LedgerUnavailable(
                        f"{path} has been held for {_LOCK_TIMEOUT:.0f} s by {who}",
                        hint=fix,
                    ) from None
                if waited < _LOCK_SPIN:
                    os.sched_yield()
                else:
                    time.sleep(_LOCK_NAP)

    def _unusable(self, error: OSError) -> LedgerUnavailable:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return self._full()
        hint = "make it writable for this user, or set CHRONOS_HOME to a directory that is"
        return LedgerUnavailable(f"the ledger {self.home} cannot be used: {error.strerror}", hint=hint)

    def _full(self) -> LedgerFull:
        return LedgerFull(
            f"the disk of the ledger {self.path} is full", hint=f"free some space on the disk of {self.home}"
        )

    def _translate(self, error: sqlite3.Error) -> LedgerUnavailable:
        code = getattr(error, "sqlite_errorname", "") or ""
        text = f"the ledger {self.path} cannot be used: {error}"
        if code.startswith("SQLITE_FULL"):
            return self._full()
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            hint = f"end what runs on the devices, then move {self.home} away: a new ledger is made with no leases"
            return LedgerUnavailable(f"the ledger {self.path} is damaged: {error}", hint=hint)
        if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
            return LedgerUnavailable(
                text, hint=f"make {self.home} and its files writable for this user, or set CHRONOS_HOME"
            )
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            who, fix = locks.blame(f"{self.path}-shm", self.path)
            return LedgerUnavailable(f"{text}, by {who}", hint=fix)
        return LedgerUnavailable(text, hint=f"check the disk and the permissions of {self.home}")
