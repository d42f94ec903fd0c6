"""SQLite's and the system's errors as one `StoreUnavailable` line each, with the fix as its hint."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from cumulus.errors import StoreUnavailable
from cumulus.lib import locks

_ROOM = 1 << 20
"""A file system with less free space than this (bytes) counts as full when a write failed."""
RESTORE = "restore the last backup with `cumulus restore FILE`"
FREE_SPACE = "free some space and try again; nothing that was acknowledged is lost"


class DiskFull(StoreUnavailable):
    """A smaller write may still succeed."""

    def __init__(self, file: Path) -> None:
        super().__init__(f"the disk of {file} is full", hint=FREE_SPACE)


class translated:
    """`with translated(file):` turns sqlite3 and OS errors about the store `file` into StoreUnavailable."""

    __slots__ = ("_file",)

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise _from_sqlite(self._file, error) from error
        if isinstance(error, OSError):
            raise _from_system(self._file, error) from error
        if isinstance(error, UnicodeDecodeError):
            # How sqlite3 meets damaged text.
            raise StoreUnavailable(f"{self._file} is damaged ({error})", hint=RESTORE) from error


def _from_sqlite(file: Path, error: sqlite3.Error) -> StoreUnavailable:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(file)):
        return DiskFull(file)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        # The write-ahead log's locks are on its shared memory; `writers` is the turnstile before them.
        who, fix = locks.blame(f"{file}-shm", file.parent / "writers", file)
        return StoreUnavailable(f"{file} has been locked for too long by {who}", hint=fix)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return read_only(file)
    if code == sqlite3.SQLITE_CANTOPEN:
        return StoreUnavailable(
            f"{file} cannot be opened ({name})", hint=f"check that {file.parent} is there and that you may write to it"
        )
    if code == sqlite3.SQLITE_NOTADB:
        return StoreUnavailable(f"{file} is not an SQLite file", hint=RESTORE)
    if code == sqlite3.SQLITE_CORRUPT:
        return StoreUnavailable(f"{file} is damaged ({error})", hint=RESTORE)
    return StoreUnavailable(f"{file} cannot be used: {error} ({name})", hint="check the disk and the system's log")


def _from_system(file: Path, error: OSError) -> StoreUnavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(file)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return read_only(Path(error.filename) if error.filename else file)
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return StoreUnavailable(
            f"{error.filename or file.parent} is not a directory", hint="move the file away or set CUMULUS_HOME"
        )
    return StoreUnavailable(f"{error.filename or file}: {error.strerror}", hint="check the disk and the system's log")


def read_only(file: Path) -> StoreUnavailable:
    return StoreUnavailable(
        f"{file} may not be written by this user, or its file system is read-only",
        hint=f"make it writable for uid {os.geteuid()} or set CUMULUS_HOME to a directory of your own",
    )


def _is_full(file: Path) -> bool:
    try:
        system = os.statvfs(file.parent)
    except OSError:
        return False
    return system.f_bavail * system.f_frsize < _ROOM
