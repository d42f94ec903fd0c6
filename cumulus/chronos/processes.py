"""Processes as /proc shows them, and signals that cannot hit another process. Linux only; below `members`.

Pids are reused, so a process is named by its pid and start time, and signalled through a pidfd.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

_CHASES = 20
_QUIET = 0.02

MARKER = "CHRONOS_PARTITION_ID"
"""Environment variable that names the leases of a process, separated by commas."""

_MARK = b"\0" + MARKER.encode() + b"="


class Proc(NamedTuple):
    """A line of /proc/PID/stat (proc_pid_stat(5)). `start` is in clock ticks since boot."""

    pid: int
    parent: int
    session: int
    start: int
    alive: bool
    """False for a zombie all of whose threads have ended."""


class Identity(NamedTuple):
    """What a pid meant when it was seen."""

    pid: int
    start: int


class Snapshot:
    """All processes at about one moment."""

    def __init__(self) -> None:
        self.procs: dict[int, Proc] = {}
        self.complete = False
        """Whether no process was started while this was taken: only then can none have slipped through."""
        self._marks: dict[int, list[str]] = {}
        self._take()
        self._children: dict[int, list[int]] = {}
        for proc in self.procs.values():
            self._children.setdefault(proc.parent, []).append(proc.pid)
        self._marked: dict[str, set[int]] | None = None

    def has(self, identity: Identity) -> bool:
        """Whether that very process is alive."""
        proc = self.procs.get(identity.pid)
        return proc is not None and proc.start == identity.start and proc.alive

    def below(self, pid: int) -> set[int]:
        """Descendants of `pid`, without itself."""
        found: set[int] = set()
        pending = [pid]
        while pending:
            for child in self._children.get(pending.pop(), ()):
                if child not in found:
                    found.add(child)
                    pending.append(child)
        return found

    def in_session(self, leader: Identity) -> set[int]:
        """Members of the session, unless another process has taken its leader's pid since."""
        proc = self.procs.get(leader.pid)
        if proc is not None and proc.start != leader.start:
            return set()
        return {proc.pid for proc in self.procs.values() if proc.session == leader.pid}

    def identities(self, pids: Iterable[int]) -> set[Identity]:
        """The living among `pids`."""
        alive = (self.procs[pid] for pid in pids if pid in self.procs)
        return {Identity(proc.pid, proc.start) for proc in alive if proc.alive}

    def _take(self) -> None:
        last = last_pid()
        # Newest first: what forks and exits all the time is caught best by looking at once.
        for pid in sorted((int(name) for name in os.listdir("/proc") if name.isdecimal()), reverse=True):
            self._add(pid)
        for _ in range(_CHASES):
            newest = last_pid()
            if newest == last:
                self.complete = True
                return
            for pid in _between(last, newest):
                self._add(pid)
                # Now, since it may be gone when it is asked for. Whoever it forked before is looked at next.
                self._marks[pid] = markers(pid)
            last = newest

    def _add(self, pid: int) -> None:
        proc = read(pid)
        if proc is not None:
            self.procs[pid] = proc

    def marked(self, id: str) -> set[int]:
        """Processes whose initial environment names the lease, as far as this user may read it."""
        if self._marked is None:
            self._marked = {}
            for pid in self.procs:
                for lease in self._marks[pid] if pid in self._marks else markers(pid):
                    self._marked.setdefault(lease, set()).add(pid)
        return self._marked.get(id, set())


def read(pid: int) -> Proc | None:
    """The process now, None where it is gone."""
    line = _content(f"/proc/{pid}/stat")
    if not line:
        return None
    # The name in parentheses may hold anything, parentheses too.
    fields = line[line.rfind(b")") + 2 :].split()
    state, parent, session, threads, start = fields[0], fields[1], fields[3], fields[17], fields[19]
    # A leader that ended before its other threads is a zombie that still runs.
    alive = state not in (b"Z", b"X", b"x") or int(threads) > 1
    return Proc(pid, int(parent), int(session), int(start), alive)


def send(target: Identity, number: int) -> bool:
    """Signal that very process, never a later one of the same pid. False where it is gone.

    Raises PermissionError where it is another user's.
    """
    try:
        handle = os.pidfd_open(target.pid)
    except ProcessLookupError:
        return False
    try:
        now = read(target.pid)
        if now is None or now.start != target.start:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def children(pid: int) -> list[Identity]:
    """The living children of a process's main thread, at once; none where the kernel does not list them."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            found = [read(int(child)) for child in file.read().split()]
    except OSError:
        return []
    return [Identity(proc.pid, proc.start) for proc in found if proc is not None and proc.alive]


def strike(belongs: Callable[[Proc], bool], seconds: float) -> None:
    """SIGKILL processes that `belongs` knows as they appear, until none has appeared for a moment, or `seconds` passed.

    For those that fork and exit faster than a snapshot is taken.
    """
    now = time.monotonic()
    end, quiet_until = now + seconds, now + _QUIET
    last = last_pid()
    while time.monotonic() < min(end, quiet_until):
        newest = last_pid()
        if newest == last:
            os.sched_yield()
            continue
        quiet_until = time.monotonic() + _QUIET
        for pid in _between(last, newest):
            with suppress(OSError):
                handle = os.pidfd_open(pid)
                try:
                    proc = read(pid)
                    if proc is not None and belongs(proc):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                finally:
                    os.close(handle)
        last = newest


def last_pid() -> int:
    """The pid that was given out last in this pid namespace (proc_loadavg(5))."""
    with open("/proc/loadavg", "rb") as file:
        return int(file.read().split()[4])


def _between(last: int, newest: int) -> range:
    """The pids given out after `last`, the newest first. Where they have wrapped around, those since."""
    return range(newest, last if newest >= last else 1, -1)


def is_alive(target: Identity) -> bool:
    """Whether that very process runs now."""
    proc = read(target.pid)
    return proc is not None and proc.start == target.start and proc.alive


def markers(pid: int) -> list[str]:
    """The leases that the process's initial environment names, as far as this user may read it."""
    _, found, rest = (b"\0" + _content(f"/proc/{pid}/environ")).partition(_MARK)
    return rest.split(b"\0", 1)[0].decode(errors="replace").split(",") if found else []


def _content(path: str) -> bytes:
    """Of a file of /proc, without the cost of a file object; empty where it is gone or not to be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    parts = []
    try:
        while part := os.read(handle, 65536):
            parts.append(part)
    except OSError:
        return b""
    finally:
        os.close(handle)
    return b"".join(parts)
