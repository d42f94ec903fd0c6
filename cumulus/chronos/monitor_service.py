"""Runs the monitor as a process: alone on its ledger, detached or in the foreground, until told to stop or idle."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from cumulus.chronos import monitor_claim, monitor_control, records
from cumulus.chronos.home import default_home
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.monitor import Monitor, say
from cumulus.chronos.parking import parking_monitor
from cumulus.chronos.settings import monitor_idle
from cumulus.clock import SystemClock, timestamp
from cumulus.errors import CumulusError, LedgerUnavailable, UsageError
from cumulus.lib import cgroup, locks, processes, safe_output
from cumulus.lib.sqlite_file import FileIdentity
from cumulus.lib.systemd import notify

_LOCK_PATIENCE = 1.0
_NICE = -10
_TROUBLE_PAUSE = 0.2
_TAKE_OVERS = 5
_LOST = "the ledger was removed, moved or replaced: the leases it knew end on time, and none is granted until then"
_BACK = "the ledger is back"


class AlreadyRunning(Exception):
    """Another monitor serves this home."""


class MonitorService:
    """The home's one monitor, in this process, until `stop` (SIGTERM, SIGINT) or `idle` seconds without a lease."""

    def __init__(self, home: Path, idle: float | None, *, take_over: bool = False) -> None:
        """With `take_over` one that runs is told to stop. Raises `AlreadyRunning`, `LedgerUnavailable`, OSError."""
        cgroup.leave()
        self._clock = SystemClock()
        self._ledger = Ledger(home, self._clock, start_monitor=False)
        self._ledger.open()
        self._idle = idle
        ledger = self._ledger.database.pin()
        take = _take_over if take_over else _take_lock
        self._lock = take(home / monitor_claim.LOCK, ledger)
        self._claim = _claimed(home, self._clock)
        parking_monitor.sign(self._ledger.database)
        self._poke = _open_fifo(home / "monitor.poke")
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = False
        self._poked = False

    def run(self) -> None:
        """Returns when told to stop, or idle for long; or where the ledger was removed, moved or replaced, and none of
        the leases is left that it knew."""
        signal.set_wakeup_fd(self._waker)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        _hurry()
        monitor = Monitor(self._ledger, lasting=True)
        notify(READY="1")
        busy_at = self._clock.monotonic()
        said = ""
        lost = False
        while not self._stopping:
            if lost != self._ledger.database.replaced:
                lost = not lost
                say(f"{timestamp(self._clock.now())} {_LOST if lost else _BACK}")
            if lost and self._knows_nothing():
                break
            try:
                pause = monitor.step()
                said = ""
                if self._poked:
                    monitor.watched()
                if self._poked or not self._ledger.database.idle():
                    self._poked = False
                    busy_at = self._clock.monotonic()
                elif self._idle is not None and self._clock.monotonic() - busy_at >= self._idle and self._retire():
                    return
            except Exception as error:
                # Whatever it is, a defect too: what went wrong with one lease must not leave all others unwatched.
                pause = _TROUBLE_PAUSE
                text = str(error) if isinstance(error, CumulusError | OSError) else traceback.format_exc()
                if text != said:
                    said = text
                    say(f"{timestamp(self._clock.now())} {text}")
            notify(WATCHDOG="1")
            self._wait(pause)
        notify(STOPPING="1")

    def _knows_nothing(self) -> bool:
        """Whether no lease is live in the ledger that was lost, or none can be read there."""
        try:
            return self._ledger.database.idle()
        except LedgerUnavailable as error:
            say(f"{timestamp(self._clock.now())} {error}")
            return True

    def _wait(self, seconds: float) -> None:
        readable, _, _ = select.select([self._poke, self._wake], [], [], seconds)
        if self._claim is not None:
            monitor_claim.answer(self._claim)
        self._poked = self._poke in readable
        for fd in readable:
            try:
                os.read(fd, 65536)
            except BlockingIOError:
                continue

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True

    def _retire(self) -> bool:
        """Give up the lock where no lease is live, with writers held off: who grants next finds no monitor."""
        with self._ledger.database.write() as tx:
            if tx.execute(f"SELECT EXISTS (SELECT 1 FROM lease WHERE {records.LIVE})").fetchone()[0]:
                return False
            if self._claim is not None:
                self._claim.close()
            os.close(self._lock)
            return True


def main(arguments: list[str]) -> int:
    """`python -m cumulus.chronos.monitor_service [--detach] [HOME]`: what `ensure_running` starts."""
    detach = "--detach" in arguments
    rest = [a for a in arguments if a != "--detach"]
    home = Path(rest[0]) if rest else default_home()
    try:
        idle = monitor_idle()
    except UsageError as error:
        safe_output.line(sys.stderr, f"chronos monitor: {error}; {error.hint}")
        return 2
    return _run_detached(home, idle) if detach else run(home, idle)


def run(home: Path, idle: float | None, *, take_over: bool = False) -> int:
    """Serve in the foreground. `idle` None: for ever. Returns the exit code."""
    try:
        MonitorService(home, idle, take_over=take_over).run()
    except (AlreadyRunning, LedgerUnavailable, OSError) as error:
        safe_output.line(sys.stderr, f"chronos monitor: {error}")
        return 1
    return 0


def _run_detached(home: Path, idle: float) -> int:
    """Fork into the background; the parent returns once the child serves, or another monitor does."""
    ready, tell = os.pipe()
    if os.fork():
        os.close(tell)
        return 0 if os.read(ready, 1) == b"1" else 1
    os.setsid()
    os.chdir("/")
    os.close(ready)
    try:
        service = MonitorService(home, idle)
    except AlreadyRunning:
        os.write(tell, b"1")
        return 0
    except (LedgerUnavailable, OSError) as error:
        say(f"chronos monitor: {error}")
        return 1
    os.write(tell, b"1")
    os.close(tell)
    service.run()
    return 0


def _claimed(home: Path, clock: SystemClock) -> socket.socket | None:
    """Another monitor that ends has its claim for a moment longer than its lock."""
    deadline = clock.monotonic() + _LOCK_PATIENCE
    while (made := monitor_claim.claim(home)) is None and clock.monotonic() < deadline:
        clock.sleep(0.01)
    if made is None:
        say(f"{timestamp(clock.now())} another process says that it serves {home}: nobody notices if it is removed")
    return made


def _take_lock(path: Path, ledger: FileIdentity) -> int:
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):
                monitor_control.sign(fd, ledger)
                return fd
        except BlockingIOError:
            # Who asks whether a monitor runs holds the lock, shared, for a moment.
            if time.monotonic() > deadline:
                os.close(fd)
                raise AlreadyRunning(f"a monitor runs already, {locks.described(locks.holders(path))}") from None
        os.close(fd)
        time.sleep(0.01)


def _is_at(fd: int, path: Path) -> bool:
    """Whether it is the path's file still, and not one that was removed: that would lock nobody out."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _take_over(path: Path, ledger: FileIdentity) -> int:
    """Take the lock from a monitor that runs, and from those that are started until we have it."""
    for _ in range(_TAKE_OVERS):
        # A pid alone could be another process's by the time that it is signalled.
        if owner := monitor_control.holder(path.parent):
            processes.send(owner, signal.SIGTERM)
            # One that was stopped would not heed the other.
            processes.send(owner, signal.SIGCONT)
        with suppress(AlreadyRunning):
            return _take_lock(path, ledger)
    return _take_lock(path, ledger)


def _hurry() -> None:
    """Before others of this machine, where we may: leases end on time on a busy one too."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, min(_NICE, os.getpriority(os.PRIO_PROCESS, 0)))
        # Linux weighs sessions against each other first (sched(7), the autogroup feature).
        if os.getsid(0) == os.getpid():
            Path("/proc/self/autogroup").write_text(str(_NICE))


def _open_fifo(path: Path) -> int:
    """Opened for reading and writing, so that it never reports end of file."""
    if not path.is_fifo():
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
