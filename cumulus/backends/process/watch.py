"""One thread that wakes when a run changes: supervisors touch a file (inotify), and their ends show on pidfds."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable

import structlog

from cumulus.backends.process.spawner import Spawned
from cumulus.lib.inotify import Inotify

log = structlog.get_logger("cumulus.backends")


class RunWatcher:
    """Calls `changed(name)` from its thread when a run's supervisor told of a change or ended; None: look at all.

    Supervisors that are this process's children are reaped here.
    """

    def __init__(self, events: str, changed: Callable[[str | None], None]) -> None:
        self._changed = changed
        self._mutex = threading.Lock()
        self._names: dict[int, tuple[str, int]] = {}
        """pidfd -> (run, pid)"""
        self._watched: set[tuple[str, int]] = set()
        self._stop, self._stopper = os.pipe2(os.O_CLOEXEC)
        self._poll = select.epoll()
        self._poll.register(self._stop, select.EPOLLIN)
        self._inotify: Inotify | None = None
        try:
            self._inotify = Inotify(events)
            self._poll.register(self._inotify.descriptor, select.EPOLLIN)
        except OSError as error:
            # The user's inotify instances are used up. Ends still show on the pidfds, starts when somebody looks.
            log.warning("changes of workloads are seen late", error=str(error))
        self._thread = threading.Thread(target=self._run, name="process-backend-watch", daemon=True)
        self._thread.start()

    def add(self, name: str, pid: int) -> bool:
        """Watch the end of the process `pid`, the supervisor of the run `name`. False where there is no such process.

        The caller makes sure that `pid` still means that process."""
        with self._mutex:
            if (name, pid) in self._watched:
                return True
            try:
                self._add(name, pid, os.pidfd_open(pid))
            except ProcessLookupError:
                return False
            return True

    def take(self, name: str, spawned: Spawned) -> None:
        """Watch the end of a supervisor that was just started for the run `name`, and close its descriptor then."""
        with self._mutex:
            self._add(name, *spawned)

    def _add(self, name: str, pid: int, descriptor: int) -> None:
        self._names[descriptor] = (name, pid)
        self._watched.add((name, pid))
        self._poll.register(descriptor, select.EPOLLIN)

    def watches(self, name: str) -> bool:
        """Whether a supervisor of that run is known to live."""
        with self._mutex:
            return any(run == name for run, _ in self._watched)

    def close(self) -> None:
        """Stop watching; processes go on."""
        os.close(self._stopper)
        self._thread.join()
        with self._mutex:
            for descriptor in (*self._names, self._stop):
                os.close(descriptor)
            self._names.clear()
        self._poll.close()
        if self._inotify is not None:
            self._inotify.close()

    def _run(self) -> None:
        while True:
            names: set[str | None] = set()
            for descriptor, _ in self._poll.poll():
                if descriptor == self._stop:
                    return
                if self._inotify is not None and descriptor == self._inotify.descriptor:
                    found = self._inotify.read()
                    names.update({None} if found is None else found)
                else:
                    names.add(self._ended(descriptor))
            for name in names:
                self._changed(name)

    def _ended(self, descriptor: int) -> str:
        with self._mutex:
            name, pid = self._names.pop(descriptor)
            self._watched.discard((name, pid))
            self._poll.unregister(descriptor)
            # Unless it was started by this process itself, another one reaps it.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)
            os.close(descriptor)
        return name


def signal_process(pid: int, number: int, still: Callable[[], bool]) -> None:
    """Signal `pid` if, with a pidfd held so that the number cannot be reused, `still()` says it is the right one."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if still():
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)
