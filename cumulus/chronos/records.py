"""Rows of the ledger's database and the values they stand for: what `ledger` and `monitor` do inside a transaction.

Nothing here opens, locks or commits; time is passed in as a `Moment`.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from cumulus.chronos import device_sizes
from cumulus.chronos.contract import EndReason, Lease, LeaseRequest, LeaseState, ParkRefusal
from cumulus.chronos.parking.steps import ParkingStep
from cumulus.clock import Clock, parse_timestamp, timestamp
from cumulus.resources.enforcement import Overuse, Sharing

LIVE = "state <> 'Ended'"
ACTIVE = f"state = 'Active' AND {LIVE}"
"""SQLite uses the index of live leases only where the query says that it wants those."""
ENDING = f"state = 'Ending' AND {LIVE}"

_LEASE = (
    "SELECT lease.id, device.number, device_id, lease.memory_bytes, compute, user, grace, lease.token, state,"
    " granted_at, expires_at, deadline, end_reason, ended_at, owner, lease.name, overuse, held_bytes, sharing,"
    " parked, step, bytes, parked_at, moved_in, reason, message"
    " FROM lease JOIN device ON device.id = device_id LEFT JOIN parking ON parking.lease = lease.id"
)


class Moment(NamedTuple):
    """Both clocks, read together."""

    wall: datetime
    monotonic: float

    @classmethod
    def read(cls, clock: Clock) -> Moment:
        return cls(clock.now(), clock.monotonic())

    def wall_after(self, seconds: float) -> datetime:
        return self.wall + timedelta(seconds=seconds)


class Process(NamedTuple):
    """A process attached to a lease: `start` (clock ticks since boot) tells it from a later one of the same pid."""

    pid: int
    start: int
    role: str


def find_lease(db: sqlite3.Connection, id: str, now: Moment) -> Lease | None:
    row = db.execute(f"{_LEASE} WHERE lease.id = ?", (id,)).fetchone()
    return None if row is None else _lease(row, now)


def leases(db: sqlite3.Connection, now: Moment, where: str = "true", *args: object) -> list[Lease]:
    """In the order they were granted."""
    return [_lease(row, now) for row in db.execute(f"{_LEASE} WHERE {where} ORDER BY +seq", args)]


def live(db: sqlite3.Connection) -> list[tuple[Lease, float]]:
    """The live leases with their deadlines, in the order they were granted: what `as_of` makes leases of."""
    rows = db.execute(f"{_LEASE} WHERE {LIVE} ORDER BY +seq").fetchall()
    return [(_recorded(row), row[_DEADLINE]) for row in rows]


def as_of(recorded: Lease, deadline: float, monotonic: float) -> Lease:
    """The lease as it is at that time."""
    state, reason, left = recorded.state, recorded.end_reason, deadline - monotonic
    if left <= 0 and state.goes_on:
        # The monitor has not come to it yet, but nobody may count on it any more.
        state, reason = LeaseState.ENDING, EndReason.EXPIRED
    # Not by `replace`, which takes three times as long, for each of many leases.
    return Lease(
        recorded.id, recorded.device, recorded.device_id, recorded.memory_bytes, recorded.compute, recorded.user,
        recorded.grace, recorded.token, state, recorded.granted_at, recorded.expires_at, left, reason,
        recorded.ended_at, recorded.owner, recorded.name, recorded.overuse, recorded.held_bytes, recorded.sharing,
        recorded.parked_bytes, recorded.parked_at, recorded.moved_in, recorded.park_refused,
    )  # fmt: skip


def insert_lease(
    tx: sqlite3.Connection, request: LeaseRequest, device_id: str, token: int, overuse: Overuse, now: Moment
) -> Lease:
    """Make an ACTIVE lease. The schema raises IntegrityError where the device has not enough left."""
    ends_in = request.start_within + request.seconds
    lease = Lease(
        id=request.id,
        device=request.device,
        device_id=device_id,
        memory_bytes=request.memory_bytes,
        compute=request.compute,
        user=request.user,
        owner=request.owner,
        name=request.name,
        grace=request.grace,
        token=token,
        state=LeaseState.ACTIVE,
        granted_at=timestamp(now.wall),
        expires_at=timestamp(now.wall + timedelta(seconds=ends_in)),
        expires_in=ends_in,
        overuse=overuse,
        sharing=request.sharing,
    )
    tx.execute(
        "INSERT INTO lease (id, device_id, memory_bytes, compute, user, owner, grace, seconds, token, state,"
        " granted_at, expires_at, deadline, name, overuse, sharing)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            lease.id, lease.device_id, lease.memory_bytes, lease.compute, lease.user, lease.owner, lease.grace,
            request.seconds, lease.token, lease.state, lease.granted_at, lease.expires_at,
            now.monotonic + ends_in, lease.name, overuse, lease.sharing,
        ),
    )  # fmt: skip
    audit(tx, "granted", lease, lease.granted_at)
    return lease


def begin(tx: sqlite3.Connection, lease: Lease, now: Moment) -> Lease:
    """Let the time for which an ACTIVE lease was granted count from now, where its end lies beyond that."""
    [(seconds,)] = tx.execute("SELECT seconds FROM lease WHERE id = ?", (lease.id,))
    if lease.expires_in <= seconds:
        return lease
    lease = replace(lease, expires_at=timestamp(now.wall + timedelta(seconds=seconds)), expires_in=seconds)
    tx.execute(
        "UPDATE lease SET deadline = ?, expires_at = ? WHERE id = ?",
        (now.monotonic + seconds, lease.expires_at, lease.id),
    )
    audit(tx, "began", lease, timestamp(now.wall))
    return lease


def extend(tx: sqlite3.Connection, lease: Lease, seconds: float, now: Moment) -> Lease:
    """Let the lease end `seconds` from now."""
    lease = replace(lease, expires_at=timestamp(now.wall + timedelta(seconds=seconds)), expires_in=seconds)
    tx.execute(
        "UPDATE lease SET deadline = ?, expires_at = ?, seconds = max(seconds, ?) WHERE id = ?",
        (now.monotonic + seconds, lease.expires_at, seconds, lease.id),
    )
    audit(tx, "renewed", lease, timestamp(now.wall))
    return lease


def begin_end(
    tx: sqlite3.Connection, lease: Lease, reason: EndReason, now: Moment, since: float | None = None
) -> Lease:
    """What goes on becomes ENDING, and its grace period starts, or did at the monotonic time `since`. Nothing happens
    to one that is ending already."""
    tx.execute(
        "UPDATE lease SET state = ?, end_reason = ?, ending_since = ? WHERE id = ? AND state = ?",
        (LeaseState.ENDING, reason, now.monotonic if since is None else since, lease.id, LeaseState.ACTIVE),
    )
    return replace(lease, state=LeaseState.ENDING, end_reason=reason)


def finish_end(tx: sqlite3.Connection, lease: Lease, now: Moment, reason: EndReason | None = None) -> Lease:
    """ENDED, and its share is free. With `reason` it need not have been ENDING: nothing is left to be ended."""
    reason, ended_at = reason or lease.end_reason, timestamp(now.wall)
    tx.execute(
        "UPDATE lease SET state = ?, end_reason = ?, ended_at = ? WHERE id = ?",
        (LeaseState.ENDED, reason, ended_at, lease.id),
    )
    audit(tx, str(reason), lease, ended_at)
    device_sizes.lease_ended(tx, lease.device_id)
    return replace(
        lease, state=LeaseState.ENDED, end_reason=reason, ended_at=ended_at,
        parked_bytes=0, parked_at="", moved_in=0.0, park_refused=None,
    )  # fmt: skip


def record_held(tx: sqlite3.Connection, lease: Lease, held_bytes: int, now: Moment) -> None:
    """That its processes hold so much, which is more than it; 0: not any more. The audit log tells of the first."""
    tx.execute("UPDATE lease SET held_bytes = ? WHERE id = ?", (held_bytes, lease.id))
    if held_bytes and not lease.held_bytes:
        audit(tx, "found-over", lease, timestamp(now.wall))


def processes_of(db: sqlite3.Connection, id: str) -> list[Process]:
    return [Process(*row) for row in db.execute("SELECT pid, start, role FROM process WHERE lease = ?", (id,))]


def ended_since(db: sqlite3.Connection, id: str, now: Moment) -> float | None:
    """Since when the lease is ending or has ended: its deadline, or when it was released. None while it is ACTIVE."""
    row = db.execute("SELECT state, end_reason, ending_since, deadline FROM lease WHERE id = ?", (id,)).fetchone()
    if row is None:
        return None
    state, reason, since, deadline = row
    if state == LeaseState.ACTIVE:
        return float(deadline) if deadline <= now.monotonic else None
    if reason == EndReason.EXPIRED:
        return float(deadline)
    # One that nothing was attached to ended at once; when does not matter to anybody.
    return now.monotonic if since is None else float(since)


def endings(db: sqlite3.Connection, now: Moment) -> list[tuple[Lease, float]]:
    """The leases that end, each with the monotonic time since when."""
    since = dict(db.execute(f"SELECT id, ending_since FROM lease WHERE {ENDING}").fetchall())
    return [(lease, since[lease.id]) for lease in leases(db, now, ENDING) if lease.id in since] if since else []


def next_deadline(db: sqlite3.Connection, after: float = -math.inf) -> float:
    """The earliest deadline of an ACTIVE lease after that time; infinite where there is none."""
    found = db.execute(f"SELECT min(deadline) FROM lease WHERE {ACTIVE} AND deadline > ?", (after,)).fetchone()[0]
    return math.inf if found is None else float(found)


def holders(db: sqlite3.Connection) -> list[tuple[str, int, int]]:
    """(lease, pid, start) of the holders of ACTIVE leases."""
    query = "SELECT lease, pid, start FROM process JOIN lease ON id = lease WHERE role = 'holder' AND state = 'Active'"
    return db.execute(query).fetchall()


def boot(db: sqlite3.Connection) -> str | None:
    """The boot of the machine in which the ledger was used last."""
    row = db.execute("SELECT value FROM meta WHERE key = 'boot'").fetchone()
    return None if row is None else str(row[0])


def settle_boot(tx: sqlite3.Connection, this: str, now: Moment) -> None:
    """Carry the leases of an earlier boot into `this` one.

    Their processes are gone, and with them what was parked: those leases are over. One whose wall-clock end has passed
    is over; another lasts until that end, but
    never longer than it was granted for, whatever the wall clock says after the boot. Ended leases begin their
    time of remembrance anew, since how long the machine was off cannot be trusted.
    """
    before = boot(tx)
    tx.execute("INSERT OR REPLACE INTO meta VALUES ('boot', ?)", (this,))
    if before in (None, this):
        return
    holders = {id for (id,) in tx.execute("SELECT lease FROM process WHERE role = 'holder'")}
    parked = {id for (id,) in tx.execute("SELECT lease FROM parking WHERE step <> ''")}
    tx.execute(
        "DELETE FROM meta WHERE key IN"
        " ('enforcement', 'health', 'policing', 'measured', 'seen', 'faults', 'faults-cleared')"
    )
    tx.execute("DELETE FROM process")
    tx.execute("DELETE FROM session")
    tx.execute("DELETE FROM cgroup")
    tx.execute("UPDATE ended SET since = ?", (now.monotonic,))
    granted_for = dict(tx.execute(f"SELECT id, seconds FROM lease WHERE {LIVE}"))
    tx.execute(f"UPDATE lease SET deadline = ? + seconds WHERE {ACTIVE}", (now.monotonic,))
    for lease in leases(tx, now, LIVE):
        left = min((parse_timestamp(lease.expires_at) - now.wall).total_seconds(), granted_for[lease.id])
        if lease.state is LeaseState.ENDING:
            finish_end(tx, lease, now)
        elif lease.id in parked:
            # Whatever its end: its program is gone, and nobody is to wait for it.
            finish_end(tx, lease, now, EndReason.REBOOTED)
        elif left <= 0:
            finish_end(tx, lease, now, EndReason.EXPIRED)
        elif lease.id in holders:
            finish_end(tx, lease, now, EndReason.RELEASED)
        else:
            tx.execute("UPDATE lease SET deadline = ? WHERE id = ?", (now.monotonic + left, lease.id))


def remember(tx: sqlite3.Connection, ended: Iterable[str], since: float) -> None:
    """From the monotonic time `since` on, before which they ended: `recently_ended`, and later to `forget`."""
    tx.executemany("INSERT OR IGNORE INTO ended VALUES (?, ?)", ((since, id) for id in ended))


def recently_ended(db: sqlite3.Connection, after: float) -> set[str]:
    """The leases that ended after that monotonic time, as far as they are in the audit log."""
    return {id for (id,) in db.execute("SELECT lease FROM ended WHERE since > ?", (after,))}


def oldest_end(db: sqlite3.Connection) -> float | None:
    """Since when the lease that ended first is remembered, None where none is."""
    since = db.execute("SELECT min(since) FROM ended").fetchone()[0]
    return None if since is None else float(since)


def forget(tx: sqlite3.Connection, before: float, limit: int) -> int:
    """Delete at most `limit` leases that ended before the monotonic time `before`. Returns how many."""
    rows = tx.execute("SELECT since, lease FROM ended WHERE since < ? LIMIT ?", (before, limit)).fetchall()
    tx.executemany("DELETE FROM lease WHERE id = ? AND state = 'Ended'", ((id,) for _, id in rows))
    tx.executemany("DELETE FROM ended WHERE since = ? AND lease = ?", rows)
    return len(rows)


def _lease(row: Any, now: Moment) -> Lease:
    left = row[_DEADLINE] - now.monotonic
    return _recorded(row, left) if left > 0 else as_of(_recorded(row), row[_DEADLINE], now.monotonic)


def _recorded(row: Any, left: float = 0.0) -> Lease:
    id, device, device_id, memory, compute, user, grace, token, state, granted, expires, _, reason, ended, *rest = row
    owner, name, overuse, held, sharing, parked, step, size, parked_at, moved_in, refused, why = rest
    now = _STATES[state]
    if step and now is LeaseState.ACTIVE:
        now = _PARKING[step]
    return Lease(
        id, device, device_id, memory, compute, user, grace, token, now, granted, expires, left,
        _REASONS[reason], ended, owner, name, _OVERUSES[overuse], held, _SHARINGS[sharing], size or 0,
        (parked_at or "") if parked else "", moved_in or 0.0,
        ParkRefusal(refused, why) if refused and not step else None,
    )  # fmt: skip


def audit(tx: sqlite3.Connection, event: str, lease: Lease, time: str) -> None:
    """Queue a line of the audit log in the same transaction; the monitor writes it out, once, with what the lease's
    own row tells."""
    tx.execute(
        "INSERT INTO audit (time, event, lease, expires_at, uid) VALUES (?, ?, ?, ?, ?)",
        (time, event, lease.id, lease.expires_at, os.geteuid()),
    )


_DEADLINE = 11
"""Of a row of `_LEASE`."""

_STATES = {state.value: state for state in LeaseState}
_PARKING = {step.value: step.state for step in ParkingStep}
_SHARINGS = {each.value: each for each in Sharing}
_OVERUSES = {each.value: each for each in Overuse}
_REASONS: dict[str | None, EndReason | None] = {reason.value: reason for reason in EndReason} | {None: None}
