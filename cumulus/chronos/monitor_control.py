"""Finds, starts and wakes the monitor. Every user of the ledger does that, without importing the monitor.

A monitor holds a lock on `monitor.pid` for as long as it lives, and listens on a FIFO for pokes.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from cumulus.chronos.contract.variables import HOME, PARTITION_ID
from cumulus.chronos.home import check_private
from cumulus.errors import LedgerUnavailable
from cumulus.lib import locks, processes
from cumulus.lib.processes import ProcessIdentity
from cumulus.lib.sqlite_file import FileIdentity

POLL = 1.0
"""Seconds after which the monitor looks at the ledger even if nobody poked it."""

_START_TIMEOUT = 15.0
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_STATE_HOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_LOG_BYTES = 2**20
_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


def running(home: Path) -> int | None:
    """The pid of the home's monitor, None where none runs, 0 where it has not said yet who it is."""
    if not is_running(home):
        return None
    last = holder(home)
    return last.pid if last else 0


def holder(home: Path) -> ProcessIdentity | None:
    """Who took the lock of the home's monitor last; it may be gone. Signalled by `processes.send`, nobody else is hit.

    None where nobody did, or has not said so yet.
    """
    try:
        words = (home / "monitor.pid").read_text().split()
    except FileNotFoundError:
        return None
    return ProcessIdentity(int(words[0]), int(words[1])) if len(words) >= 2 else None


def sign(fd: int, ledger: FileIdentity) -> None:
    """Say in the lock's file, which this process has locked, who it is, and which ledger it has open."""
    me = processes.read(os.getpid())
    assert me is not None
    os.ftruncate(fd, 0)
    device, inode = ledger
    os.pwrite(fd, f"{me.pid} {me.start} {device} {inode}\n".encode(), 0)


def is_running(home: Path) -> bool:
    """Whether the home has a monitor."""
    watcher = MonitorCheck(home)
    try:
        return watcher.is_running()
    finally:
        watcher.close()


class MonitorCheck:
    """`ensure_running` for one who asks all the time: with one system call, or none."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._file = -1
        self._seen = -math.inf
        self._asked = -math.inf

    def ensure_running(self, within: float) -> None:
        """Look only where the last look is longer than `within` seconds ago."""
        if within and time.monotonic() - self._seen < within:
            return
        if not self.is_running():
            ensure_running(self._home)
        self._seen = time.monotonic()

    def is_running(self) -> bool:
        """Whether the home has a monitor, without reading its pid."""
        # A child that was forked while this holds the lock would go on holding it.
        with _looking:
            if self._file < 0:
                try:
                    self._file = os.open(self._home / "monitor.pid", os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    return False
            try:
                fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                self._continue_stopped()
                return True
            # The file may be another by now. Closing alone does not let go of a lock that a child shares.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._close()
        return False

    def _continue_stopped(self) -> None:
        """A monitor that was stopped by a signal, by a job of its own user perhaps, ends no lease."""
        now = time.monotonic()
        if now - self._asked < POLL:
            return
        self._asked = now
        monitor = holder(self._home)
        if monitor is not None and processes.is_stopped(monitor):
            with suppress(PermissionError):
                processes.send(monitor, signal.SIGCONT)

    def close(self) -> None:
        with _looking:
            self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


_looking = threading.Lock()
os.register_at_fork(before=_looking.acquire, after_in_parent=_looking.release, after_in_child=_looking.release)


def ensure_running(home: Path) -> None:
    """Start the home's monitor, detached, if none runs; it runs when this returns.

    Does nothing inside a lease or in a supervisor of jobs: a monitor started there would be ended with the job.
    Raises `LedgerUnavailable` where the monitor does not come up.
    """
    if is_running(home) or not can_start_here():
        return
    _prepare(home)
    # One starts it, and the others wait: a Python for each of many processes would slow them all.
    starting = os.open(home / "monitor.start", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _START_TIMEOUT
        while not locks.try_lock(starting):
            if running(home) is not None:
                return
            if time.monotonic() > deadline:
                who, fix = locks.blame(home / "monitor.start")
                raise LedgerUnavailable(
                    f"the Chronos monitor of {home} has been starting for {_START_TIMEOUT:.0f} s, by {who}",
                    hint=fix,
                )
            time.sleep(0.01)
        if running(home) is None:
            _start(home)
    finally:
        os.close(starting)


def poke(home: Path) -> None:
    """Make the monitor look at the ledger now. Lost where none runs: it looks when it starts."""
    try:
        fd = os.open(home / "monitor.poke", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, b".")
    except OSError:
        return
    finally:
        os.close(fd)


def _start(home: Path) -> None:
    import subprocess

    log = home / "monitor.log"
    command = [sys.executable, "-m", "cumulus.chronos.monitor_service", "--detach", str(home)]
    package_root = str(Path(__file__).resolve().parents[2])
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH", "")]))
    environment.update({k: v for k, v in os.environ.items() if k.startswith("CHRONOS_") and k != HOME})
    try:
        with open(os.open(log, _LOG_FLAGS, 0o600), "ab") as output:
            # Also where a version before this one, or somebody's umask, made it for all to read.
            os.fchmod(output.fileno(), 0o600)
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment,
                timeout=_START_TIMEOUT,
                start_new_session=True,
                check=False,
            )
        failure = "" if done.returncode == 0 else f"it exited with {done.returncode}"
    except OSError as error:
        failure = str(error)
    except subprocess.TimeoutExpired:
        failure = f"it was not ready within {_START_TIMEOUT:.0f}s"
    if failure:
        raise LedgerUnavailable(f"the Chronos monitor did not start: {failure}", hint=f"read {log}")


def _prepare(home: Path) -> None:
    log = home / "monitor.log"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(home)
        if not os.access(home, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            os.replace(log, log.with_name("monitor.log.1"))
    except OSError as error:
        hint = "make it writable for this user, or set CHRONOS_HOME to a directory that is"
        raise LedgerUnavailable(f"{home} cannot be used: {error.strerror}", hint=hint) from error


def can_start_here() -> bool:
    """Not inside a lease, nor in a supervisor of jobs: a monitor started there would be ended with the job."""
    return PARTITION_ID not in os.environ and not processes.is_subreaper()
