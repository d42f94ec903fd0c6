"""Which daemons run on a state directory: each holds a lock on one file there, which others can check."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from cumulus import environment, paths
from cumulus.errors import StoreReplaced, StoreUnavailable
from cumulus.lib.private import why_not_private


def check_private(home: Path) -> None:
    """Raises StoreUnavailable where others may write to the state directory: they could put another store, and jobs of
    theirs, in the place of ours. Raises OSError."""
    if problem := why_not_private(home, "store", environment.HOME):
        raise StoreUnavailable(problem[0], hint=problem[1])


class DaemonLock:
    """Held by each running `serve`, active or standby. A lock of the kernel's: it ends with the process,
    however that ends, is not inherited by what it starts, and can be looked at without taking it.

    One process must hold one at most: closing any descriptor of the file gives the lock up. So this process itself is
    never asked by way of the file: see `_held`.
    """

    def __init__(self, home: Path) -> None:
        """Raises OSError where the file cannot be made, StoreUnavailable where everybody may write there."""
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_private(home)
        self._fd = os.open(paths.daemon_lock(home), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _locker(self._fd) is None:
            os.ftruncate(self._fd, 0)  # What an earlier daemon said of its store.
        fcntl.lockf(self._fd, fcntl.LOCK_SH)
        self._file = _identity(os.fstat(self._fd))
        _held[self._file] = self._fd

    def serves(self, store: Path) -> None:
        """Say which store this daemon has open: `refuse_unread` compares."""
        found = os.stat(store)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{found.st_dev} {found.st_ino}\n".encode(), 0)

    def close(self) -> None:
        _held.pop(self._file, None)
        os.close(self._fd)


def daemon_pid(home: Path) -> int | None:
    """The pid of a `serve` that runs on this state directory now, None where none does."""
    return _daemon(home)[0]


def refuse_unread(home: Path) -> None:
    """Raises StoreReplaced where a daemon runs on this state directory, but has another store open than is there now:
    nobody would read what is written here."""
    pid, served = _daemon(home)
    file = store_file(home)
    if pid is None or len(served) != 2:
        return
    try:
        found = os.stat(file)
        if served == [b"%d" % found.st_dev, b"%d" % found.st_ino]:
            return
    except (FileNotFoundError, NotADirectoryError):
        pass
    raise StoreReplaced(
        f"{file} is not the store that the daemon, process {pid}, has open: that was removed, moved or replaced",
        hint="put it back, or end the daemon and start it again (jobs go on without it)",
    )


def _daemon(home: Path) -> tuple[int | None, list[bytes]]:
    """The pid of a daemon, and what it said of its store."""
    try:
        held = _held.get(_identity(os.stat(paths.daemon_lock(home)))) if _held else None
        if held is not None:
            return os.getpid(), os.pread(held, 256, 0).split()
        fd = os.open(paths.daemon_lock(home), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None, []
    try:
        return _locker(fd), os.pread(fd, 256, 0).split()
    finally:
        os.close(fd)


def _locker(fd: int) -> int | None:
    """The pid of another process that holds a lock on the file."""
    request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, request))
    return int(pid) if kind != fcntl.F_UNLCK else None


def store_file(home: Path) -> Path:
    """The store's file, without loading what reads it."""
    return paths.store_dir(home) / "cumulus.db"


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


_held: dict[tuple[int, int], int] = {}
"""The descriptors of locks that this process holds, by the file. To open and close such a file would give it up."""
# Linux's struct flock on 64-bit machines: type, whence, start, len, pid.
_FLOCK = "hhqqi0q"
