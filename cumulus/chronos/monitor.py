"""The process that ends leases on time, with no controller and no network; one for each ledger.

    ledger (deadlines, attached processes) -> Monitor.step -> SIGTERM, grace, SIGKILL -> ledger (ENDED)

All it must remember is in the ledger: a monitor that is killed is replaced by one that finishes what it began.
It wakes for the next deadline, for a poke, and every second.
"""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from cumulus.chronos import (
    audit,
    container_gc,
    device_records,
    enforce,
    late_containers,
    monitor_control,
    node_watch,
    records,
)
from cumulus.chronos.cgroup_tracker import CgroupTracker
from cumulus.chronos.contract import EndReason, Lease, LeaseState
from cumulus.chronos.database import Database
from cumulus.chronos.enforcement_health import HealthProber
from cumulus.chronos.lease_processes import LeaseProcesses
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.monitor_control import ensure_running
from cumulus.chronos.node_watch import NodeFindings
from cumulus.chronos.parking import rows
from cumulus.chronos.parking.parker import Parker
from cumulus.chronos.police import Police, Verdict
from cumulus.chronos.records import Moment
from cumulus.chronos.snapshot import ProcessSnapshot
from cumulus.clock import timestamp
from cumulus.errors import ChronosError, LedgerUnavailable
from cumulus.lib import cgroup, printable
from cumulus.lib.processes import ProcessIdentity, is_alive, send

__all__ = ["Monitor", "ensure_running"]

REMEMBERED = 86400.0
"""Seconds for which an ended lease is remembered, so that asking again for its id never grants it twice."""

_LOOK_AGAIN = 0.01
_LOOK_AGAIN_AT_MOST = 0.1
_SESSION = "INSERT OR IGNORE INTO session VALUES (?, ?, ?)"
_HOUSEKEEPING = 2.0
_COLLECT_CONTAINERS = 600.0
_FORGET_AT_ONCE = 1000
_ROOM = 0.05
"""Seconds that house-keeping must have until a lease ends, except where it has been put off for long."""

_TOLD_HERE = (EndReason.OVERUSED, EndReason.LOST)
"""Ends of which nobody knows before the monitor says so."""

_FREEZE_ROUNDS = 20
_LOOKS_IF_BUSY = 5
"""Looks that must find nothing left of an attached lease, where processes start all the time, so that no look is
complete."""


@dataclass
class _Ending:
    """What the monitor knows of a lease that ends. Its grace period counts from the monotonic time `since`."""

    lease: Lease
    since: float
    recorded: bool
    """The ledger says that it is ending."""
    begun: bool = False
    terminated: set[ProcessIdentity] = field(default_factory=set)
    refused: set[ProcessIdentity] = field(default_factory=set)
    sessions: set[ProcessIdentity] = field(default_factory=set)
    """Those that its processes made, and of which the ledger does not know yet."""
    empty_looks: int = 0
    overused: bool = False
    """Its processes hold more than was leased: they have no grace, however its end began."""

    @property
    def kill_at(self) -> float:
        at_once = self.overused or self.lease.end_reason is EndReason.OVERUSED
        return self.since + (0.0 if at_once else self.lease.grace)


class Monitor:
    """Ends the processes of leases that expired or were released.

    One that is `lasting` writes the audit log in a thread, with a connection of its own: it waits for the disk. And it
    looks after what holds jobs to their leases.
    """

    def __init__(self, ledger: Ledger, *, lasting: bool = False, police: Police | None = None) -> None:
        """`police`: who tells which leases are over; one that is `lasting` has its own."""
        self._database = ledger.database
        self._clock = ledger.clock
        self._endings: dict[str, _Ending] = {}
        self._last_look = 0.0
        self._look_again = _LOOK_AGAIN
        self._next_deadline = math.inf
        self._next_flush = 0.0
        self._flusher = ThreadPoolExecutor(1, "audit") if lasting else None
        self._flushing: Future[int] | None = None
        self._log = Database(ledger.home) if lasting else ledger.database
        self._next_housekeeping = 0.0
        self._next_collection = 0.0
        self._cgroup_tracker = CgroupTracker(ledger.database, self._say)
        self._health_prober = HealthProber(ledger.home, self._clock, self._say) if lasting else None
        self._police = police
        self._seen_last = NodeFindings()
        poke = partial(monitor_control.poke, ledger.home)
        if lasting and police is None:
            self._police = Police(ledger.database, self._clock, poke, self._say)
            self._police.start()
        if lasting:
            Parker(Database(ledger.home), self._clock, self._say, wake=poke).start()

    def step(self) -> float:
        """Do all that is due. Returns the seconds until something is due again, at most `monitor_control.POLL`.

        Raises `LedgerUnavailable` and OSError (the audit log). Where the ledger can be read but not written,
        processes are ended all the same, and the ledger learns of it later.
        """
        self._begin_due()
        if any(not ending.recorded and ending.lease.end_reason in _TOLD_HERE for ending in self._endings.values()):
            # Who sees the processes end asks why at once.
            with suppress(LedgerUnavailable):
                self._record([])
        gone = self._look() if self._endings and self._clock.monotonic() >= self._look_due() else []
        self._record(gone)
        pause = self._pause()
        if pause < _ROOM and self._clock.monotonic() < self._next_housekeeping + _HOUSEKEEPING:
            return pause
        self._keep_house()
        return self._pause()

    def watched(self) -> None:
        """Somebody asks how the devices are."""
        if self._police is not None:
            self._police.watched()

    def _meanwhile(self) -> None:
        """In the midst of a look, which takes long where there are many processes: begin what has become due."""
        if self._clock.monotonic() >= self._next_deadline:
            self._begin_due()

    def _begin_due(self) -> None:
        """Find what must end, and signal what is at hand of it."""
        self._find()
        for ending in self._endings.values():
            if not ending.begun:
                self._begin(ending)

    def _find(self) -> None:
        """What must end: leases released by others, those that expired, those whose holder is gone, those that are
        overused, and those of devices that failed."""
        now = Moment.read(self._clock)
        with self._database.read() as db:
            found = {lease.id: _Ending(lease, since, recorded=True) for lease, since in records.endings(db, now)}
            self._next_deadline = records.next_deadline(db, now.monotonic)
            for lease in records.leases(db, now, f"{records.ACTIVE} AND deadline <= ?", now.monotonic):
                found[lease.id] = _Ending(lease, now.monotonic, recorded=False)
            over = _abandoned(db)
            if self._database.replaced:
                over |= self._deserted(db)
            for id in over - found.keys():
                held = records.find_lease(db, id, now)
                if held is not None and held.state.goes_on:
                    held = replace(held, state=LeaseState.ENDING, end_reason=EndReason.RELEASED)
                    found[id] = _Ending(held, now.monotonic, recorded=False)
            verdict = self._police.verdict if self._police is not None else Verdict()
            for ids, reason in ((verdict.end, EndReason.OVERUSED), (verdict.lost, EndReason.LOST)):
                for id in ids - found.keys():
                    held = records.find_lease(db, id, now)
                    if held is not None and held.state.goes_on:
                        held = replace(held, state=LeaseState.ENDING, end_reason=reason)
                        found[id] = _Ending(held, now.monotonic, recorded=False)
        for id, known in self._endings.items():
            if id in found:
                known.recorded = found[id].recorded
                found[id] = known
        for id in verdict.end & found.keys():
            found[id].overused = True
        self._endings = found

    def _deserted(self, db: sqlite3.Connection) -> set[str]:
        """Leases to which processes were attached and of which none is left. In a ledger that was lost no other can be
        attached any more; where it was not, their share is theirs until it is given back."""
        attached = [LeaseProcesses.load(db, id) for (id,) in db.execute("SELECT DISTINCT lease FROM process")]
        if all(any(is_alive(ProcessIdentity(p.pid, p.start)) for p in lease.attached) for lease in attached):
            return set()
        snapshot = ProcessSnapshot(home=self._database.home)
        return {
            lease.id
            for lease in attached
            if not any(snapshot.has(ProcessIdentity(p.pid, p.start)) for p in lease.attached)
            and not lease.members(snapshot)
            and not lease.populated()
        }

    def _begin(self, ending: _Ending) -> None:
        """End what is attached, at once: a look at all processes takes milliseconds."""
        with self._database.read() as db:
            lease = LeaseProcesses.load(db, ending.lease.id)
            parked = rows.find(db, ending.lease.id)
        for directory in parked.frozen if parked is not None else ():
            # A process that stands still heeds no SIGTERM.
            cgroup.thaw(directory)
        if lease.attached:
            if self._clock.monotonic() < ending.kill_at:
                targets = lease.at_hand()
                self._signal(ending, targets, signal.SIGTERM)
                ending.terminated |= targets
            else:
                for directory in lease.cgroups:
                    cgroup.kill(directory)
            self._hold(ending.lease, ended=False)
        ending.begun = True
        self._look_again = _LOOK_AGAIN

    def _look_due(self) -> float:
        """When to look at all processes next: soon after something began to end, then ever more seldom."""
        kills = [e.kill_at for e in self._endings.values() if e.kill_at > self._last_look]
        return min([self._last_look + self._look_again, *kills])

    def _look(self) -> list[LeaseProcesses]:
        """Signal what is left of each ending lease. Returns those of which nothing is left."""
        self._last_look = self._clock.monotonic()
        self._look_again = min(2 * self._look_again, _LOOK_AGAIN_AT_MOST)
        endings = list(self._endings.values())
        snapshot = ProcessSnapshot(self._meanwhile, home=self._database.home)
        with self._database.read() as db:
            memberships = [LeaseProcesses.load(db, ending.lease.id) for ending in endings]
        gone = []
        for ending, lease in zip(endings, memberships, strict=True):
            lease = replace(lease, sessions=(*lease.sessions, *ending.sessions), seen=self._seen(lease))
            ending.sessions |= lease.new_sessions(snapshot)
            processes = lease.members(snapshot)
            live = bool(processes) or lease.populated()
            ending.empty_looks = 0 if live else ending.empty_looks + 1
            if live and self._clock.monotonic() >= ending.kill_at:
                self._kill(ending, lease, processes)
            elif live:
                self._signal(ending, processes - ending.terminated, signal.SIGTERM)
                ending.terminated |= processes
            elif snapshot.complete or ending.empty_looks >= (_LOOKS_IF_BUSY if lease.attached else 2):
                gone.append(lease)
            else:
                self._look_again = _LOOK_AGAIN
        return gone

    def _seen(self, lease: LeaseProcesses) -> tuple[ProcessIdentity, ...]:
        """Processes that are known to be the lease's, wherever they have gone since."""
        holding = self._police.of(lease.id) if self._police is not None else ()
        return (*self._cgroup_tracker.of(lease), *holding)

    def _record(self, gone: list[LeaseProcesses]) -> None:
        """Tell the ledger what has begun to end, and what has ended, in one transaction."""
        begun = [ending for ending in self._endings.values() if not ending.recorded]
        sessions = [(id, *session) for id, ending in self._endings.items() for session in ending.sessions]
        held = self._newly_held()
        if not (begun or gone or sessions or held):
            return
        # Not durable, since a slow disk must not keep other leases waiting for their end. If it is lost, so are the
        # processes; and whoever is granted a share that was freed here makes this durable with it.
        with self._database.write(durable=False) as tx:
            now = Moment.read(self._clock)
            for over, size in held:
                records.record_held(tx, over, size, now)
            for ending in begun:
                assert ending.lease.end_reason is not None
                records.begin_end(tx, ending.lease, ending.lease.end_reason, now, ending.since)
            tx.executemany(_SESSION, sessions)
            for lease in gone:
                found = records.find_lease(tx, lease.id, now)
                if found is not None and found.state is LeaseState.ENDING:
                    records.finish_end(tx, found, now)
        for ending in self._endings.values():
            ending.recorded = True
            ending.sessions.clear()
        for lease in gone:
            self._hold(self._endings.pop(lease.id).lease, ended=True)

    def _newly_held(self) -> list[tuple[Lease, int]]:
        """What leases hold that are over, where the ledger does not say so; 0 for those that are not any more."""
        verdict = self._police.verdict if self._police is not None else Verdict()
        if not verdict.judged:
            return []
        now = Moment.read(self._clock)
        with self._database.read() as db:
            told = {lease.id: lease for lease in records.leases(db, now, f"{records.LIVE} AND held_bytes > 0")}
            found = [(records.find_lease(db, id, now), size) for id, size in verdict.held.items()]
        new = [(lease, size) for lease, size in found if lease is not None and lease.held_bytes != size]
        # One that ends says to the last why.
        within = [
            (lease, 0)
            for id, lease in told.items()
            if id in verdict.judged and id not in verdict.held and lease.state.goes_on
        ]
        for lease, size in new:
            if size and not lease.held_bytes:
                self._say(f"lease {lease.id} is over: it {replace(lease, held_bytes=size).overused}")
        return [*new, *within]

    def _hold(self, lease: Lease, *, ended: bool) -> None:
        """Tell what holds jobs to the lease that it is ending, or has ended."""
        with self._database.read() as db:
            device = device_records.find_device(db, lease.device_id)
        if device is None:
            return
        try:
            if ended:
                enforce.forget(lease.id, device, self._database.home)
            else:
                enforce.update(lease, device, self._database.home)
        except (ChronosError, OSError) as error:
            self._say(f"lease {lease.id}: {error}")

    def _kill(self, ending: _Ending, lease: LeaseProcesses, processes: set[ProcessIdentity]) -> None:
        """Stop the processes until a look finds no new one, so that none forks away, then SIGKILL them all."""
        for directory in lease.cgroups:
            cgroup.kill(directory)
        stopped: set[ProcessIdentity] = set()
        for _ in range(_FREEZE_ROUNDS):
            self._signal(ending, processes - stopped, signal.SIGSTOP)
            stopped |= processes
            snapshot = ProcessSnapshot(self._meanwhile, home=self._database.home)
            processes = lease.members(snapshot)
            if processes <= stopped:
                break
        # A group gets a signal as a whole, with those that are just being forked.
        for group in snapshot.groups_of(stopped | processes):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        self._signal(ending, stopped | processes, signal.SIGKILL)
        ending.terminated |= stopped | processes

    def _signal(self, ending: _Ending, targets: set[ProcessIdentity], number: signal.Signals) -> None:
        for target in targets:
            try:
                send(target, number)
            except PermissionError:
                if target not in ending.refused:
                    ending.refused.add(target)
                    self._say(f"cannot end process {target.pid} of lease {ending.lease.id}: it is another user's")

    def _remove_cgroups(self) -> None:
        """Of ended leases. Here and not when they end, since a cgroup stays until its last zombie is reaped."""
        with self._database.read() as db:
            query = "SELECT directory FROM cgroup JOIN lease ON lease.id = lease WHERE state = 'Ended'"
            removed = [row for row in db.execute(query) if cgroup.remove(row[0])]
        if removed:
            with self._database.write() as tx:
                tx.executemany("DELETE FROM cgroup WHERE directory = ?", removed)

    def _keep_house(self) -> None:
        """What can wait until no lease is about to end. Where the ledger was lost, nothing but what finds the leases'
        processes: the rest is written beside the ledger, in what may be another's place."""
        now = self._clock.monotonic()
        if self._database.replaced:
            if now >= self._next_housekeeping:
                self._next_housekeeping = now + _HOUSEKEEPING
                self._remember_sessions()
                self._remove_cgroups()
            return
        if now >= self._next_flush:
            self._next_flush = now + monitor_control.POLL / 2
            self._cgroup_tracker.look()
            self._remove_cgroups()
            self._flush(now)
        if now >= self._next_housekeeping:
            self._next_housekeeping = now + _HOUSEKEEPING
            self._remember_sessions()
            self._end_late_containers()
            self._forget()
            self._collect_containers(now)
            self._record_policing()
            if self._health_prober is not None:
                self._health_prober.look()

    def _record_policing(self) -> None:
        """How the devices are, whether overuse is seen, and who holds a device without a lease, where that is another
        than before."""
        if self._police is None:
            return
        found, faults, seen = self._police.health, dict(self._police.faults), self._police.seen
        if not found and not faults and seen is self._seen_last:
            # It has looked at no device yet: mostly, there is no GPU.
            return
        with self._database.read() as db:
            known = device_records.health(db, device_records.POLICING)
            failed = node_watch.faults(db)
        new = {id: text for id, text in faults.items() if id not in failed}
        changed = [condition for condition in found if condition not in known]
        for condition in changed:
            self._say(f"{condition.type} {condition.status}, {condition.reason}: {condition.message}")
        if not (new or seen is not self._seen_last or (found and found != known)):
            return
        self._seen_last = seen
        with self._database.write(durable=False) as tx:
            if found:
                device_records.record_health(tx, found, device_records.POLICING)
            if new:
                node_watch.record_faults(tx, new)
            node_watch.write(tx, seen.figures, seen.unleased, self._clock.monotonic())

    def _flush(self, now: float) -> None:
        """Write out the audit log; where in a thread, raise what went wrong there the last time."""
        if self._flusher is None:
            audit.flush(self._log, now)
            return
        if self._flushing is not None:
            if not self._flushing.done():
                return
            last, self._flushing = self._flushing, None
            last.result()
        self._flushing = self._flusher.submit(audit.flush, self._log, now)

    def _remember_sessions(self) -> None:
        """Those that the processes of live leases have made, for when their makers are gone."""
        with self._database.read() as db:
            attached = [LeaseProcesses.load(db, id) for (id,) in db.execute("SELECT DISTINCT lease FROM process")]
        if attached:
            snapshot = ProcessSnapshot(home=self._database.home)
            sessions = [(lease.id, *session) for lease in attached for session in lease.new_sessions(snapshot)]
            if sessions:
                with self._database.write(durable=False) as tx:
                    tx.executemany(_SESSION, sessions)

    def _end_late_containers(self) -> None:
        with self._database.read() as db:
            ended = records.recently_ended(db, self._clock.monotonic() - late_containers.SECONDS)
        late = late_containers.end(ended, ProcessSnapshot(home=self._database.home)) if ended else ()
        if late:
            self._say(f"ended {len(late)} processes of containers that started after their lease was over")

    def _forget(self) -> None:
        before = self._clock.monotonic() - REMEMBERED
        with self._database.read() as db:
            oldest = records.oldest_end(db)
        if oldest is not None and oldest < before:
            with self._database.write(durable=False) as tx:
                records.forget(tx, before, _FORGET_AT_ONCE)

    def _collect_containers(self, now: float) -> None:
        if now < self._next_collection:
            return
        self._next_collection = now + _COLLECT_CONTAINERS
        with self._database.read() as db, suppress(OSError):
            moment = Moment.read(self._clock)
            container_gc.collect(
                self._database.home,
                lambda lease: records.find_lease(db, lease, moment) is not None,
                self._clock.now().timestamp(),
            )

    def _pause(self) -> float:
        now = self._clock.monotonic()
        with self._database.read() as db:
            times = [now + monitor_control.POLL, records.next_deadline(db)]
        if self._endings:
            times.append(self._look_due())
        return max(0.0, min(times) - now)

    def _say(self, text: str) -> None:
        say(f"{timestamp(self._clock.now())} {text}")


def say(text: str) -> None:
    """A line for the log, lost where the disk is full: the monitor must go on."""
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"{printable.log_entry(text)}\n".encode())


def _abandoned(db: sqlite3.Connection) -> set[str]:
    """Leases all of whose holders have gone."""
    left: dict[str, bool] = {}
    for lease, pid, start in records.holders(db):
        left[lease] = left.get(lease, False) or is_alive(ProcessIdentity(pid, start))
    return {lease for lease, alive in left.items() if not alive}
