"""SQLite's and the system's errors as one `StoreUnavailable` line each, with the fix as its hint."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from cumulus.errors import StoreUnavailable
from cumulus.lib import locks, sqlite_file
from cumulus.lib.sqlite_file import Failure

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
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    match sqlite_file.failure(file, error):
        case Failure.FULL:
            return DiskFull(file)
        case Failure.BUSY:
            # The write-ahead log's locks are on its shared memory; `writers` is the lock before them.
            who, fix = locks.blame(f"{file}-shm", file.parent / "writers", file)
            return StoreUnavailable(f"{file} has been locked for too long by {who}", hint=fix)
        case Failure.READ_ONLY:
            return read_only(file)
        case Failure.CANNOT_OPEN:
            return StoreUnavailable(
                f"{file} cannot be opened ({name})",
                hint=f"check that {file.parent} is there and that you may write to it",
            )
        case Failure.NO_DATABASE:
            return StoreUnavailable(f"{file} is not an SQLite file", hint=RESTORE)
        case Failure.DAMAGED:
            return StoreUnavailable(f"{file} is damaged ({error})", hint=RESTORE)
        case _:
            text = f"{file} cannot be used: {error} ({name})"
            return StoreUnavailable(text, hint="check the disk and the system's log")


def _from_system(file: Path, error: OSError) -> StoreUnavailable:
    match sqlite_file.failure(file, error):
        case Failure.FULL:
            return DiskFull(file)
        case Failure.READ_ONLY:
            return read_only(Path(error.filename) if error.filename else file)
        case Failure.NO_DIRECTORY:
            return StoreUnavailable(
                f"{error.filename or file.parent} is not a directory", hint="move the file away or set CUMULUS_HOME"
            )
        case _:
            text = f"{error.filename or file}: {error.strerror}"
            return StoreUnavailable(text, hint="check the disk and the system's log")


def read_only(file: Path) -> StoreUnavailable:
    return StoreUnavailable(
        f"{file} may not be written by this user, or its file system is read-only",
        hint=f"make it writable for uid {os.geteuid()} or set CUMULUS_HOME to a directory of your own",
    )
