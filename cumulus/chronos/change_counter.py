"""A counter that all processes with one ledger open share in memory: it tells, with no system call, whether a writer
has been there since. Below `database`, whose writers move it; `ledger` keeps what it read while it stands still.

The number is odd while a writer commits, or after one died doing so: what is read then must not be kept. Nothing
depends on what the file holds after a restart, so it is never synced.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

NAME = "changes-shm"
"""The file in the ledger's home."""


class Changes:
    """The counter of one home. Only who holds the writers' lock may make one, or call `begin` and `done`."""

    def __init__(self, home: Path) -> None:
        """Raises OSError where the file cannot be made."""
        fd = os.open(home / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
