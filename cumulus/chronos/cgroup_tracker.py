"""Keeps the processes of live leases in their cgroups, and the supervisors of jobs running; part of the monitor.

A process that may write cgroups, as root may, can leave its own. It is looked for among all processes that were born
of a lease: those attached or seen in its cgroups, the children of its jobs' supervisors (who adopt their orphans), and
whatever any of these starts. One that left is put back, since programs like `su` leave without ill will; one that
leaves again is killed. What is found ends with the lease in any case.

What this misses: a process that leaves, and loses all its parents and its supervisor too, between two looks.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from cumulus.chronos import records
from cumulus.chronos.database import Database
from cumulus.chronos.lease_processes import LeaseProcesses
from cumulus.lib import cgroup, processes
from cumulus.lib.processes import Proc, ProcessIdentity


class _Kept(NamedTuple):
    """A living process of a lease: when it was started, and the cgroup that it belongs into."""

    start: int
    directory: str


class CgroupTracker:
    """`look` is called about once a second. What it knows is lost with the process: the next one learns it anew from
    the cgroups."""

    def __init__(self, database: Database, say: Callable[[str], None]) -> None:
        """`say` writes a line to the log."""
        self._database = database
        self._say = say
        self._kept: dict[int, _Kept] = {}
        self._seen: set[int] = set()
        """The pids at the last look: only others need to be asked for their parents."""
        self._adopted: set[ProcessIdentity] = set()
        """Children of supervisors that were outside at the last look for the first time: one may just be on its way
        into its cgroup, and a fork of the supervisor's own is gone by the next."""
        self._put_back: set[ProcessIdentity] = set()
        self._continued: set[ProcessIdentity] = set()
        """Supervisors of whom it was said already: a job may stop its own again and again."""

    def of(self, lease: LeaseProcesses) -> tuple[ProcessIdentity, ...]:
        """The lease's processes at the last look, wherever they were."""
        return tuple(
            ProcessIdentity(pid, kept.start)
            for pid, kept in self._kept.items()
            if any(f"{kept.directory}/".startswith(f"{directory}/") for directory in lease.cgroups)
        )

    def look(self) -> None:
        """Continue stopped supervisors, and put back or end what has left its cgroup."""
        with self._database.read() as db:
            query = f"SELECT DISTINCT lease FROM process JOIN lease ON id = lease WHERE {records.LIVE}"
            leases = [LeaseProcesses.load(db, id) for (id,) in db.execute(query)]
        for lease in leases:
            self._continue_supervisors(lease)
        directories = {directory for lease in leases for directory in lease.cgroups}
        if not directories:
            self._kept, self._seen, self._put_back, self._continued = {}, set(), set(), set()
            return
        inside = {pid: place for directory in directories for pid, place in cgroup.places(directory).items()}
        placed = [each for lease in leases for each in lease.placed()]
        self._learn(inside, placed)
        for pid in self._kept.keys() - inside.keys():
            self._bring_back(pid)
        used = {*inside.values(), *(known.directory for known in self._kept.values())}
        for process, place in placed:
            # A lease may last for months, and have many programs one after another.
            if place not in used and not processes.is_alive(ProcessIdentity(process.pid, process.start)):
                cgroup.remove(place)

    def _continue_supervisors(self, lease: LeaseProcesses) -> None:
        for process in lease.attached:
            supervisor = ProcessIdentity(process.pid, process.start)
            if process.role == "supervisor" and processes.is_stopped(supervisor):
                if supervisor not in self._continued:
                    self._continued.add(supervisor)
                    self._say(f"lease {lease.id}: its job's supervisor {process.pid} was stopped, and is continued")
                with suppress(PermissionError):
                    processes.send(supervisor, signal.SIGCONT)

    def _learn(self, inside: dict[int, str], placed: Sequence[tuple[records.Process, str]]) -> None:
        """Bring up to date which processes belong where: `inside` is where they are, `placed` is who was attached."""
        present = processes.pids()
        kept = {pid: known for pid, known in self._kept.items() if pid in present}
        adopters: dict[int, _Kept] = {}
        for process, place in placed:
            into = adopters if process.role == "supervisor" else kept
            into[process.pid] = _Kept(process.start, place)
        adopted: set[ProcessIdentity] = set()
        new = [processes.read(pid) for pid in (present - self._seen) | (inside.keys() - kept.keys())]
        # A parent is older than its children, so that it is known by the time that they are come to.
        for proc in sorted((proc for proc in new if proc is not None and proc.alive), key=_by_age):
            if proc.pid in inside:
                kept[proc.pid] = _Kept(proc.start, inside[proc.pid])
            elif _is_child(proc, kept):
                kept[proc.pid] = _Kept(proc.start, kept[proc.parent].directory)
            elif _is_child(proc, adopters):
                if (orphan := ProcessIdentity(proc.pid, proc.start)) in self._adopted:
                    kept[proc.pid] = _Kept(proc.start, adopters[proc.parent].directory)
                else:
                    adopted.add(orphan)
                    present.discard(proc.pid)
        kept.pop(os.getpid(), None)
        self._kept, self._seen, self._adopted = kept, present, adopted
        self._put_back &= {ProcessIdentity(pid, known.start) for pid, known in kept.items()}

    def _bring_back(self, pid: int) -> None:
        start, directory = self._kept[pid]
        process = ProcessIdentity(pid, start)
        if not processes.is_alive(process):
            del self._kept[pid]
            self._seen.discard(pid)
        elif cgroup.is_inside(pid, directory):
            # It was forked during this look, or is about to end.
            return
        elif process not in self._put_back and cgroup.enter(directory, pid):
            self._put_back.add(process)
            self._say(f"process {pid} had left the cgroup of its lease, {directory}: it was put back")
        else:
            self._say(f"process {pid} left the cgroup of its lease again, {directory}: it is killed")
            with suppress(PermissionError):
                processes.send(process, signal.SIGKILL)


def _is_child(proc: Proc, of: dict[int, _Kept]) -> bool:
    """Whether its parent is one of these processes, and not a later one with the same pid."""
    known = of.get(proc.parent)
    return known is not None and processes.is_alive(ProcessIdentity(proc.parent, known.start))


def _by_age(proc: Proc) -> tuple[int, int]:
    """Times are in hundredths of a second; of those that are equal, pids tell, unless they have just begun anew."""
    return proc.start, proc.pid
