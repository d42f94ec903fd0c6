"""One SQLite file that many processes and threads use: what the store and the ledger do alike. Standard library only.

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


class Trouble(Enum):
    """What is wrong with a database file."""

    FULL = auto()
    BUSY = auto()
    READ_ONLY = auto()
    CANNOT_OPEN = auto()
    NO_DATABASE = auto()
    DAMAGED = auto()
    NO_DIRECTORY = auto()
    OTHER = auto()


_TROUBLES = {
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_BUSY: Trouble.BUSY,
    sqlite3.SQLITE_LOCKED: Trouble.BUSY,
    sqlite3.SQLITE_READONLY: Trouble.READ_ONLY,
    sqlite3.SQLITE_PERM: Trouble.READ_ONLY,
    sqlite3.SQLITE_AUTH: Trouble.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Trouble.CANNOT_OPEN,
    sqlite3.SQLITE_NOTADB: Trouble.NO_DATABASE,
    sqlite3.SQLITE_CORRUPT: Trouble.DAMAGED,
}
_SYSTEMS_TROUBLES = {
    errno.ENOSPC: Trouble.FULL,
    errno.EDQUOT: Trouble.FULL,
    errno.EROFS: Trouble.READ_ONLY,
    errno.EACCES: Trouble.READ_ONLY,
    errno.EPERM: Trouble.READ_ONLY,
    errno.ENOTDIR: Trouble.NO_DIRECTORY,
    errno.EEXIST: Trouble.NO_DIRECTORY,
}


def trouble(file: Path, error: sqlite3.Error | OSError) -> Trouble:
    """What the error means for `file`."""
    if isinstance(error, OSError):
        return _SYSTEMS_TROUBLES.get(error.errno or 0, Trouble.OTHER)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_IOERR and _is_full(file):
        return Trouble.FULL
    return _TROUBLES.get(code, Trouble.OTHER)


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
