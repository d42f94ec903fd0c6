"""Processes as /proc shows them, and signals that cannot hit another process. Linux only; below `members`.

Pids are reused, so a process is named by its pid and start time, and signalled through a pidfd.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

_CHASES = 20
_BATCH = 25

MARKER = "CHRONOS_PARTITION_ID"
"""Environment variable that names the leases of a process, separated by commas."""

LEDGER = "ledger.db"
"""The ledger's file in its home."""

_MARK = b"\0" + MARKER.encode() + b"="
_HOME = b"\0CHRONOS_HOME="


def boot_id() -> str:
    """Names this boot of the machine: monotonic times and process ids mean nothing in another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Proc(NamedTuple):
    """A line of /proc/PID/stat (proc_pid_stat(5)). `start` is in clock ticks since boot."""

    pid: int
    parent: int
    group: int
    session: int
    start: int
    alive: bool
    """False for a zombie all of whose threads have ended."""
    stopped: bool = False


class Identity(NamedTuple):
    """What a pid meant when it was seen."""

    pid: int
    start: int


class Snapshot:
    """All processes at about one moment. `between` is called every millisecond or so while it is taken.

    With the ledger's `home`, processes that name another ledger of this machine are not marked: ids of leases are
    chosen by callers, and two ledgers may have the same.
    """

    def __init__(self, between: Callable[[], None] = lambda: None, home: Path | None = None) -> None:
        self._home = home
        self.procs: dict[int, Proc] = {}
        self.complete = False
        """Whether no process was started while this was taken: only then can none have slipped through."""
        self._marked: dict[str, set[int]] = {}
        self._take(between)
        self._children: dict[int, list[int]] = {}
        self._sessions: dict[int, set[int]] = {}
        self._groups: dict[int, set[int]] = {}
        for proc in self.procs.values():
            self._children.setdefault(proc.parent, []).append(proc.pid)
            self._sessions.setdefault(proc.session, set()).add(proc.pid)
            if proc.alive:
                self._groups.setdefault(proc.group, set()).add(proc.pid)

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
        return self._sessions.get(leader.pid, set())

    def marked(self, id: str) -> set[int]:
        """Processes whose initial environment names the lease, as far as this user may read it."""
        return self._marked.get(id, set())

    def identities(self, pids: Iterable[int]) -> set[Identity]:
        """The living among `pids`."""
        alive = (self.procs[pid] for pid in pids if pid in self.procs)
        return {Identity(proc.pid, proc.start) for proc in alive if proc.alive}

    def groups_of(self, members: Iterable[Identity]) -> set[int]:
        """The process groups of which no other living process than `members` is part."""
        pids = {member.pid for member in members}
        groups = {self.procs[pid].group for pid in pids if pid in self.procs} - {0, 1, os.getpgrp()}
        return {group for group in groups if self._groups.get(group, set()) <= pids}

    def _take(self, between: Callable[[], None]) -> None:
        last = last_pid()
        # Newest first: what forks and exits all the time is caught best by looking at once.
        for count, pid in enumerate(sorted(pids(), reverse=True)):
            if count % _BATCH == 0:
                between()
            self._add(pid)
        for _ in range(_CHASES):
            newest = last_pid()
            if newest == last:
                self.complete = True
                return
            for pid in _between(last, newest):
                self._add(pid)
            last = newest

    def _add(self, pid: int) -> None:
        proc = read(pid)
        if proc is not None:
            self.procs[pid] = proc
            # At once, since it may be gone when it is asked for. Whom it has forked before is looked at next.
            for lease in markers(pid, self._home):
                self._marked.setdefault(lease, set()).add(pid)


def read(pid: int) -> Proc | None:
    """The process now, None where it is gone."""
    line = _content(f"/proc/{pid}/stat")
    if not line:
        return None
    # The name in parentheses may hold anything, parentheses too.
    fields = line[line.rfind(b")") + 2 :].split()
    state, parent, group, session, threads, start = *fields[:4], fields[17], fields[19]
    # A leader that ended before its other threads is a zombie that still runs.
    alive = state not in (b"Z", b"X", b"x") or int(threads) > 1
    return Proc(pid, int(parent), int(group), int(session), int(start), alive, state in (b"T", b"t"))


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


def is_stopped(target: Identity) -> bool:
    """Whether that very process is stopped by a signal, or by a debugger."""
    proc = read(target.pid)
    return proc is not None and proc.start == target.start and proc.stopped


def pids() -> set[int]:
    """Those of all processes now."""
    return {int(name) for name in os.listdir("/proc") if name.isdecimal()}


def markers(pid: int, home: Path | None = None) -> list[str]:
    """The leases that the process's initial environment names, as far as this user may read it.

    None where it names another ledger than that in `home`. A home that is no ledger is no excuse.
    """
    environment = b"\0" + _content(f"/proc/{pid}/environ")
    named = _variable(environment, _MARK)
    if not named:
        return []
    other = _variable(environment, _HOME)
    if home is not None and other and _is_another_ledger(Path(os.fsdecode(other)), home):
        return []
    return named.decode(errors="replace").split(",")


def _variable(environment: bytes, start: bytes) -> bytes:
    return environment.partition(start)[2].split(b"\0", 1)[0]


def _is_another_ledger(there: Path, home: Path) -> bool:
    try:
        return not os.path.samefile(there / LEDGER, home / LEDGER)
    except (OSError, ValueError):
        return False


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
