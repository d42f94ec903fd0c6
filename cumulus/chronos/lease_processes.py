"""Finds the processes of a lease, by the ledger and by /proc. Used by `monitor`; uses `snapshot`.

A process belongs to a lease when it is attached, descends from an attached one (orphans come to the supervisor of
a job, which is their subreaper), is in a session that the lease's processes made, is in the lease's cgroup, or was
started with CHRONOS_PARTITION_ID naming the lease.

What escapes where no cgroup can be made (without root): a process that has left its session and whose parents have
all gone, no supervisor among them, and that was started with an environment without that variable. A program that
forks and exits faster than it can be looked at is ended with its process group; one that changes its group as fast
is not, but as long as it is seen its lease goes on ending, and the share is given to nobody else.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from cumulus.chronos import records
from cumulus.chronos.snapshot import ProcessSnapshot
from cumulus.lib import cgroup, processes
from cumulus.lib.processes import ProcessIdentity


@dataclass(frozen=True)
class LeaseProcesses:
    """What the ledger knows of one lease's processes."""

    id: str
    attached: tuple[records.Process, ...]
    sessions: tuple[ProcessIdentity, ...]
    """By their leaders."""
    cgroups: tuple[str, ...]
    seen: tuple[ProcessIdentity, ...] = ()
    """Those that the monitor's `cgroup_tracker` knows: some may have left their cgroup just now."""
    user: str = ""
    """For whom it was made."""

    @classmethod
    def load(cls, db: sqlite3.Connection, id: str) -> LeaseProcesses:
        sessions = db.execute("SELECT sid, start FROM session WHERE lease = ?", (id,))
        cgroups = db.execute("SELECT directory FROM cgroup WHERE lease = ?", (id,))
        user = db.execute("SELECT user FROM lease WHERE id = ?", (id,)).fetchone()
        return cls(
            id=id,
            attached=tuple(records.processes_of(db, id)),
            sessions=tuple(ProcessIdentity(sid, start) for sid, start in sessions),
            cgroups=tuple(directory for (directory,) in cgroups),
            user=user[0] if user else "",
        )

    def members(self, snapshot: ProcessSnapshot) -> set[ProcessIdentity]:
        """The living processes that end with the lease: never this one, init, or a supervisor of jobs."""
        alive = [p for p in self.attached if snapshot.has(ProcessIdentity(p.pid, p.start))]
        seeds = {p.pid for p in alive}.union(
            snapshot.marked(self.id),
            *(snapshot.in_session(leader) for leader in self.sessions),
            *(cgroup.members(directory) for directory in self.cgroups),
            (process.pid for process in self.seen if snapshot.has(process)),
        ) - _UNTOUCHABLE
        found = seeds.union(*(snapshot.below(pid) for pid in seeds)) - _UNTOUCHABLE - {os.getpid()}
        return snapshot.identities(found - {p.pid for p in alive if p.role == "supervisor"})

    def at_hand(self) -> set[ProcessIdentity]:
        """The attached processes, and of supervisors the children, without a look at all processes."""
        found: set[ProcessIdentity] = set()
        for process in self.attached:
            identity = ProcessIdentity(process.pid, process.start)
            if process.role == "supervisor":
                found.update(processes.living(processes.children(process.pid)) if processes.is_alive(identity) else ())
            elif processes.is_alive(identity):
                found.add(identity)
        return found - {identity for identity in found if identity.pid in _UNTOUCHABLE | {os.getpid()}}

    def populated(self) -> bool:
        """Whether a process lives in one of the lease's cgroups, even one too quick for a snapshot."""
        return any(cgroup.populated(directory) for directory in self.cgroups)

    def placed(self) -> Sequence[tuple[records.Process, str]]:
        """The attached processes that have a cgroup, for themselves or for the job that they supervise."""
        found = ((process, cgroup.place_of(process.pid, process.start, self.cgroups)) for process in self.attached)
        return [(process, place) for process, place in found if place is not None]

    def new_sessions(self, snapshot: ProcessSnapshot) -> set[ProcessIdentity]:
        """Sessions made by the attached processes and their descendants, by their leaders, and not yet remembered.

        A session whose leader is someone else, the terminal where an attached process was started, is not the lease's.
        """
        alive = {p.pid for p in self.attached if snapshot.has(ProcessIdentity(p.pid, p.start))}
        inside = alive.union(*(snapshot.below(pid) for pid in alive)) - {os.getpid()}
        leaders = [snapshot.procs[pid] for pid in inside if snapshot.procs[pid].session == pid]
        return {ProcessIdentity(proc.pid, proc.start) for proc in leaders} - set(self.sessions)


_UNTOUCHABLE = {0, 1}
