"""All processes of this machine at one moment, and which leases each was started in; below `lease_processes`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from cumulus.chronos.contract.variables import PARTITION_ID
from cumulus.chronos.home import LEDGER
from cumulus.lib import processes
from cumulus.lib.processes import Proc, ProcessIdentity

_CHASES = 20
_BATCH = 25
_MARK = b"\0" + PARTITION_ID.encode() + b"="
_HOME = b"\0CHRONOS_HOME="


class ProcessSnapshot:
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

    def has(self, identity: ProcessIdentity) -> bool:
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

    def in_session(self, leader: ProcessIdentity) -> set[int]:
        """Members of the session, unless another process has taken its leader's pid since."""
        proc = self.procs.get(leader.pid)
        if proc is not None and proc.start != leader.start:
            return set()
        return self._sessions.get(leader.pid, set())

    def marked(self, id: str) -> set[int]:
        """Processes whose initial environment names the lease, as far as this user may read it."""
        return self._marked.get(id, set())

    def identities(self, pids: Iterable[int]) -> set[ProcessIdentity]:
        """The living among `pids`."""
        alive = (self.procs[pid] for pid in pids if pid in self.procs)
        return {ProcessIdentity(proc.pid, proc.start) for proc in alive if proc.alive}

    def groups_of(self, members: Iterable[ProcessIdentity]) -> set[int]:
        """The process groups of which no other living process than `lease_processes` is part."""
        pids = {member.pid for member in members}
        groups = {self.procs[pid].group for pid in pids if pid in self.procs} - {0, 1, os.getpgrp()}
        return {group for group in groups if self._groups.get(group, set()) <= pids}

    def _take(self, between: Callable[[], None]) -> None:
        last = _last_pid()
        # Newest first: what forks and exits all the time is caught best by looking at once.
        for count, pid in enumerate(sorted(processes.pids(), reverse=True)):
            if count % _BATCH == 0:
                between()
            self._add(pid)
        for _ in range(_CHASES):
            newest = _last_pid()
            if newest == last:
                self.complete = True
                return
            for pid in _between(last, newest):
                self._add(pid)
            last = newest

    def _add(self, pid: int) -> None:
        proc = processes.read(pid)
        if proc is not None:
            self.procs[pid] = proc
            # At once, since it may be gone when it is asked for. Whom it has forked before is looked at next.
            for lease in leases_of(pid, self._home):
                self._marked.setdefault(lease, set()).add(pid)


def leases_of(pid: int, home: Path | None = None) -> list[str]:
    """The leases that the process's initial environment names, as far as this user may read it.

    None where it names another ledger than that in `home`. A home that is no ledger is no excuse.
    """
    environment = b"\0" + processes.environment_block(pid)
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


def _last_pid() -> int:
    """The pid that was given out last in this pid namespace (proc_loadavg(5))."""
    with open("/proc/loadavg", "rb") as file:
        return int(file.read().split()[4])


def _between(last: int, newest: int) -> range:
    """The pids given out after `last`, the newest first. Where they have wrapped around, those since."""
    return range(newest, last if newest >= last else 1, -1)
