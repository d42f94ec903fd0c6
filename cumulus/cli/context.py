"""What every verb starts from: the state directory, its store, and whether a daemon is there to act."""

from __future__ import annotations

import fcntl
import os
import shlex
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cumulus import paths
from cumulus.cli import terminal
from cumulus.clock import Clock, parse_timestamp
from cumulus.errors import StoreReplaced, StoreUnavailable
from cumulus.resources.quantity import format_duration
from cumulus.store.base import Query, Store

SILENT_SECONDS = 15.0
"""A leader renews every two seconds, and a lapsed one is followed by another within a few more."""


@contextmanager
def open_store(*, create: bool = False) -> Iterator[Store]:
    """The store of this CUMULUS_HOME. Without `create`, a state directory that is not there is not made:
    an empty store in memory answers instead, and stderr says so. Raises StoreUnavailable."""
    directory = paths.store_dir(paths.home())
    refuse_unread(paths.home())
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


def check_private(home: Path) -> None:
    """Raises StoreUnavailable where everybody may write to the state directory: they could put another store, and jobs
    of theirs, in the place of ours. Raises OSError."""
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & stat.S_IWOTH:
        raise StoreUnavailable(
            f"{home} can be written by everybody (mode {mode:04o}): anybody could replace the store",
            hint=f"run: chmod o-w {shlex.quote(str(home))}, or set CUMULUS_HOME to a directory of your own",
        )


def _sqlite(directory: Path) -> Store:
    from cumulus.store.sqlite import SqliteStore

    try:
        # `mkdir -p` gives its mode to the last directory alone, and the state directory is its owner's too.
        directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_private(directory.parent)
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
        """Raises OSError where the file cannot be made, StoreUnavailable where everybody may write there."""
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_private(home)
        self._fd = os.open(paths.daemon_lock(home), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if _locker(self._fd) is None:
            os.ftruncate(self._fd, 0)  # What an earlier daemon said of its store.
        fcntl.lockf(self._fd, fcntl.LOCK_SH)

    def serves(self, store: Path) -> None:
        """Say which store this daemon has open: `refuse_unread` compares."""
        found = os.stat(store)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{found.st_dev} {found.st_ino}\n".encode(), 0)

    def close(self) -> None:
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


def note_if_no_daemon(then: str) -> None:
    """Say on stderr when nothing will act on what was just stored. `then`: what happens once a daemon runs."""
    if daemon_pid(paths.home()) is None:
        terminal.note(f"No daemon runs on {paths.home()}; {then} once `cumulus serve` is started.")


class Freshness:
    """Says once, on stderr, where nobody keeps what is shown up to date: no daemon runs, or none renews its lead.

    The leader wrote that time by the clock of this same machine.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._said = False

    def look(self) -> None:
        trouble = "" if self._said else self._trouble()
        if trouble:
            self._said = True
            terminal.note(trouble)

    def _trouble(self) -> str:
        moments = [(lease.get("spec") or {}).get("renewTime") or "" for lease in self._store.list(Query("Lease")).items]
        since = max(moments, default="")
        silent = (self._clock.now() - parse_timestamp(since)).total_seconds() if since else None
        home = paths.home()
        if daemon_pid(home) is None:
            if silent is None:
                return f"No daemon has ever run on {home}; things happen once `cumulus serve` is started."
            return f"No daemon runs on {home}: what is shown is as the last one left it, {_age(silent)} ago."
        if silent is not None and silent >= SILENT_SECONDS:
            return (
                f"The daemon on {home} has not said for {_age(silent)} that it leads: what is shown may be that old; "
                "see `cumulus doctor`."
            )
        return ""


def _age(seconds: float) -> str:
    return format_duration(max(0.0, seconds))


# Linux's struct flock on 64-bit machines: type, whence, start, len, pid.
_FLOCK = "hhqqi0q"
