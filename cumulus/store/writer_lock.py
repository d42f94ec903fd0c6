"""Lets the processes that write to one store take turns.

SQLite lets a process that waits for the write lock look again after growing pauses, so that one that writes all the
time would starve the others for seconds. Here each takes a file lock on its way to SQLite's:
who waits for SQLite's lock has it, and who has just written finds it taken.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

from cumulus.lib import locks

_FILE = "writers"
_PAUSE = 0.0005
"""Seconds between two looks at the lock while another process has it."""


class WriterLock:
    """Safe for use by one thread at a time."""

    def __init__(self, directory: Path, busy_seconds: float) -> None:
        self._file = directory / _FILE
        self._busy_seconds = busy_seconds
        self._descriptor: int | None = None

    def enter(self) -> None:
        """Be alone among the processes until `leave`. Raises sqlite3.OperationalError (SQLITE_BUSY) when another has
        it for too long, OSError where the lock's file cannot be made."""
        if self._descriptor is None:
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not locks.acquire(self._descriptor, self._busy_seconds, pause=_PAUSE):
            raise _busy()

    def leave(self) -> None:
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _busy() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("another writer is waiting")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    error.sqlite_errorname = "SQLITE_BUSY"
    return error
