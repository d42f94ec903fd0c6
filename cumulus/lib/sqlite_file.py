"""One SQLite file for many processes and threads: the common part of store and ledger. Standard library only.

How it is opened, which file it is whatever becomes of its name, what went wrong, and a counter in shared memory that
tells of other writers. What the tables are and what errors say is for those who own the file.
"""

from __future__ import annotations

import errno
import mmap
import os
import sqlite3
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path

_ROOM = 1 << 20
"""A file system with less free space than this (bytes) counts as full when a write failed."""


def connect(
    file: Path, *, busy_seconds: float, write: bool = True, immutable: bool = False, pragmas: Sequence[str] = ()
) -> sqlite3.Connection:
    """A connection in autocommit mode to a file that is there; it may be handed between threads. Raises sqlite3.Error.

    `immutable`: the file is read as one that does not change, without its write-ahead log.
    """
    uri = f"{file.absolute().as_uri()}?mode={'rw' if write else 'ro'}{'&immutable=1' if immutable else ''}"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """The value of a pragma that is a number."""
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


FileIdentity = tuple[int, int]
"""Which file it is, whatever its name: device and inode."""


def identity(path: str | os.PathLike[str]) -> FileIdentity | None:
    """Of the file at the path, None where there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


class Failure(Enum):
    """What is wrong with a database file."""

    FULL = auto()
    BUSY = auto()
    READ_ONLY = auto()
    CANNOT_OPEN = auto()
    NO_DATABASE = auto()
    DAMAGED = auto()
    NO_DIRECTORY = auto()
    OTHER = auto()


_FAILURES = {
    sqlite3.SQLITE_FULL: Failure.FULL,
    sqlite3.SQLITE_BUSY: Failure.BUSY,
    sqlite3.SQLITE_LOCKED: Failure.BUSY,
    sqlite3.SQLITE_READONLY: Failure.READ_ONLY,
    sqlite3.SQLITE_PERM: Failure.READ_ONLY,
    sqlite3.SQLITE_AUTH: Failure.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Failure.CANNOT_OPEN,
    sqlite3.SQLITE_NOTADB: Failure.NO_DATABASE,
    sqlite3.SQLITE_CORRUPT: Failure.DAMAGED,
}
_SYSTEM_FAILURES = {
    errno.ENOSPC: Failure.FULL,
    errno.EDQUOT: Failure.FULL,
    errno.EROFS: Failure.READ_ONLY,
    errno.EACCES: Failure.READ_ONLY,
    errno.EPERM: Failure.READ_ONLY,
    errno.ENOTDIR: Failure.NO_DIRECTORY,
    errno.EEXIST: Failure.NO_DIRECTORY,
}


def failure(file: Path, error: sqlite3.Error | OSError) -> Failure:
    """What the error means for `file`."""
    if isinstance(error, OSError):
        return _SYSTEM_FAILURES.get(error.errno or 0, Failure.OTHER)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_IOERR and _is_full(file):
        return Failure.FULL
    return _FAILURES.get(code, Failure.OTHER)


def _is_full(file: Path) -> bool:
    try:
        system = os.statvfs(file.parent)
    except OSError:
        return False
    return system.f_bavail * system.f_frsize < _ROOM


class ChangeCounter:
    """A counter that all processes with one database open share in memory: it tells, with no system call, whether a
    writer has been there since.

    The number is odd while a writer commits, or after one died doing so: what is read then must not be kept. Nothing
    depends on what the file holds after a restart, so it is never synced. Only who holds the writers' lock may make
    one, or call `begin` and `done`.
    """

    def __init__(self, file: Path) -> None:
        """Raises OSError where the file cannot be made."""
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < _SIZE:
                # Written, not truncated to: a hole that finds the disk full later kills who writes to it.
                os.pwrite(fd, bytes(_SIZE), 0)
            self._number = memoryview(mmap.mmap(fd, _SIZE)).cast("Q")
        finally:
            os.close(fd)

    def now(self) -> int:
        return self._number[0]

    def begin(self) -> None:
        self._number[0] |= 1

    def done(self) -> None:
        self._number[0] = (self._number[0] | 1) + 1


_SIZE = 8
