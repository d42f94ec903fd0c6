"""What every verb starts from: the state directory, its store, and whether a daemon is there to act."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cumulus import paths
from cumulus.cli import terminal
from cumulus.errors import StoreUnavailable
from cumulus.store.base import Store


@contextmanager
def open_store(*, create: bool = False) -> Iterator[Store]:
    """The store of this CUMULUS_HOME. Without `create`, a state directory that is not there is not made:
    an empty store in memory answers instead, and stderr says so. Raises StoreUnavailable."""
    directory = paths.store_dir(paths.home())
    store: Store
    if not create and not directory.exists():
        from cumulus.store.memory import MemoryStore

        terminal.note(f"There is no store in {paths.home()} yet; `cumulus apply` or `cumulus serve` makes it.")
        store = MemoryStore()
    else:
        store = _sqlite(directory)
    try:
        yield store
    finally:
        store.close()


def _sqlite(directory: Path) -> Store:
    from cumulus.store.sqlite import SqliteStore

    try:
        return SqliteStore(directory)
    except OSError as error:
        raise StoreUnavailable(
            f"the store in {directory} cannot be used: {error.strerror}",
            hint="set CUMULUS_HOME to a directory that you may write",
        ) from error


class DaemonLock:
    """Held by each running `serve`, active or standby. A lock of the kernel's: it ends with the process,
    however that ends, is not inherited by what it starts, and can be looked at without taking it.

    One process must hold one at most: closing any descriptor of the file gives the lock up.
    """

    def __init__(self, home: Path) -> None:
        """Raises OSError where the file cannot be made."""
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = os.open(paths.daemon_lock(home), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.lockf(self._fd, fcntl.LOCK_SH)

    def close(self) -> None:
        os.close(self._fd)


def daemon_pid(home: Path) -> int | None:
    """The pid of a `serve` that runs on this state directory now, None where none does."""
    try:
        fd = os.open(paths.daemon_lock(home), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, request))
    finally:
        os.close(fd)
    return int(pid) if kind != fcntl.F_UNLCK else None


def note_if_no_daemon(then: str) -> None:
    """Say on stderr when nothing will act on what was just stored. `then`: what happens once a daemon runs."""
    if daemon_pid(paths.home()) is None:
        terminal.note(f"No daemon runs on {paths.home()}; {then} once `cumulus serve` is started.")


# Linux's struct flock on 64-bit machines: type, whence, start, len, pid.
_FLOCK = "hhqqi0q"
