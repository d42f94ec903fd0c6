"""Which processes belong to a lease, as the ledger remembers and as /proc shows; between `processes` and `monitor`.

A process belongs to a lease when it is attached, descends from an attached one (orphans come to the supervisor of
a job, which is their subreaper), is in a session that the lease's processes made, or was started with
CHRONOS_PARTITION_ID naming the lease.
"""

from __future__ import annotations

import os
import sqlite3

from cumulus.chronos import records
from cumulus.chronos.processes import Identity, Snapshot


def members(db: sqlite3.Connection, id: str, snapshot: Snapshot) -> set[Identity]:
    """The living processes that end with the lease. Never the monitor itself, init, or a supervisor of jobs."""
    attached = [p for p in records.processes_of(db, id) if snapshot.has(Identity(p.pid, p.start))]
    seeds = {p.pid for p in attached} | snapshot.marked(id)
    for sid, start in db.execute("SELECT sid, start FROM session WHERE lease = ?", (id,)):
        seeds |= snapshot.in_session(Identity(sid, start))
    spared = {os.getpid(), 1} | {p.pid for p in attached if p.role == "supervisor"}
    found = seeds.union(*(snapshot.below(pid) for pid in seeds - {os.getpid(), 1}))
    return snapshot.identities(found - spared)


def new_sessions(db: sqlite3.Connection, id: str, snapshot: Snapshot) -> list[Identity]:
    """Sessions that descendants of the lease's attached processes have made, not yet remembered.

    The session in which an attached process was started by someone else, a terminal's say, is not the lease's.
    """
    attached = [p.pid for p in records.processes_of(db, id) if snapshot.has(Identity(p.pid, p.start))]
    foreign = {snapshot.procs[pid].session for pid in attached} - set(attached)
    known = {sid for (sid,) in db.execute("SELECT sid FROM session WHERE lease = ?", (id,))}
    inside = set(attached).union(*(snapshot.below(pid) for pid in attached))
    sessions = {snapshot.procs[pid].session for pid in inside} - foreign - known - {0}
    return [Identity(sid, snapshot.procs[sid].start if sid in snapshot.procs else 0) for sid in sessions]
