"""Rows of the ledger about parking: what is wanted of a lease, how far that is, its processes, and what was proven.

Inside transactions of others, as `records`. Of a lease there is one row for as long as it lives, once it was asked for.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from cumulus.chronos.contract import Lease, Proof
from cumulus.chronos.parking.steps import ParkingStep
from cumulus.chronos.records import Moment
from cumulus.clock import timestamp
from cumulus.lib.processes import ProcessIdentity

_PROOFS = "parking-proofs"
_MOST_PROOFS = 200
_ROW = "SELECT lease, step, freeze, park_for, began, bytes, frozen, unproven, reason, message FROM parking"


class ParkingRow(NamedTuple):
    """How far a lease is."""

    lease: str
    step: ParkingStep
    freeze: bool
    park_for: float
    began: float
    """When that was asked for, on the monotonic clock."""
    bytes: int
    """Of main memory, set aside."""
    frozen: tuple[str, ...]
    """The cgroups that are frozen, or are about to be."""
    unproven: bool
    """The self-test parks what is not proven: that is how it is."""
    reason: str
    message: str


class ParkedProcess(NamedTuple):
    """One that was locked, or is about to be. `bytes`: what it held of the GPU."""

    process: ProcessIdentity
    bytes: int
    frameworks: tuple[str, ...]


def find(db: sqlite3.Connection, lease: str) -> ParkingRow | None:
    found = db.execute(f"{_ROW} WHERE lease = ?", (lease,)).fetchone()
    return None if found is None else _row(found)


def unfinished(db: sqlite3.Connection) -> list[ParkingRow]:
    """Of leases that go on, those of which something is being done or waits in main memory."""
    query = f"{_ROW} JOIN lease ON lease.id = parking.lease WHERE step <> '' AND state = 'Active' ORDER BY began"
    return [_row(found) for found in db.execute(query)]


def set_aside(db: sqlite3.Connection) -> int:
    """Bytes of main memory, for all leases."""
    return int(db.execute("SELECT coalesce(sum(bytes), 0) FROM parking").fetchone()[0])


def not_moved_yet(db: sqlite3.Connection, but: str) -> int:
    """Bytes of main memory that are set aside and still free, of other leases than `but`."""
    query = "SELECT coalesce(sum(bytes), 0) FROM parking WHERE step IN ('Asked', 'Locking', 'Moving') AND lease <> ?"
    return int(db.execute(query, (but,)).fetchone()[0])


def ask(tx: sqlite3.Connection, lease: str, park_for: float, freeze: bool, unproven: bool, now: Moment) -> None:
    """That the lease be parked; what became of an earlier attempt is forgotten."""
    tx.execute("DELETE FROM parked_process WHERE lease = ?", (lease,))
    tx.execute(
        "INSERT OR REPLACE INTO parking (lease, step, freeze, park_for, began, unproven) VALUES (?, ?, ?, ?, ?, ?)",
        (lease, ParkingStep.ASKED, freeze, park_for, now.monotonic, unproven),
    )


def advance(tx: sqlite3.Connection, lease: str, before: Collection[ParkingStep], after: ParkingStep) -> bool:
    """Record the next step. False where it is at none of those `before`: somebody wants something else by now."""
    marks = ", ".join("?" * len(before))
    found = tx.execute(
        f"UPDATE parking SET step = ? WHERE lease = ? AND step IN ({marks})"
        " AND EXISTS (SELECT 1 FROM lease WHERE id = ? AND state = 'Active')",
        (after, lease, *before, lease),
    )
    return found.rowcount > 0


def say_why(tx: sqlite3.Connection, lease: str, reason: str, message: str) -> None:
    """Why it is not parked, or does not stay so."""
    tx.execute("UPDATE parking SET reason = ?, message = ? WHERE lease = ?", (reason, message, lease))


def put_aside(tx: sqlite3.Connection, lease: str, size: int) -> None:
    tx.execute("UPDATE parking SET bytes = ? WHERE lease = ?", (size, lease))


def note_frozen(tx: sqlite3.Connection, lease: str, directories: Iterable[str]) -> None:
    """Before they are frozen, and after they were thawed."""
    tx.execute("UPDATE parking SET frozen = ? WHERE lease = ?", (json.dumps(list(directories)), lease))


def note_processes(tx: sqlite3.Connection, lease: str, found: Iterable[ParkedProcess]) -> None:
    """Before they are locked."""
    tx.executemany(
        "INSERT OR REPLACE INTO parked_process VALUES (?, ?, ?, ?, ?)",
        [(lease, each.process.pid, each.process.start, each.bytes, ",".join(each.frameworks)) for each in found],
    )


def forget_processes(tx: sqlite3.Connection, lease: str, gone: Iterable[ProcessIdentity]) -> None:
    tx.executemany(
        "DELETE FROM parked_process WHERE lease = ? AND pid = ? AND start = ?", [(lease, *each) for each in gone]
    )


def processes(db: sqlite3.Connection, lease: str) -> list[ParkedProcess]:
    query = "SELECT pid, start, bytes, frameworks FROM parked_process WHERE lease = ? ORDER BY pid"
    rows = db.execute(query, (lease,))
    return [
        ParkedProcess(ProcessIdentity(pid, start), size, tuple(filter(None, frameworks.split(","))))
        for pid, start, size, frameworks in rows
    ]


def park(
    tx: sqlite3.Connection,
    lease: Lease,
    park_for: float,
    now: Moment,
    began: float,
    before: ParkingStep = ParkingStep.MOVING,
) -> bool:
    """It is parked: its share is free from here on, and its end is that of its parking. False where it is not at the
    step `before` any more."""
    if not advance(tx, lease.id, (before,), ParkingStep.PARKED):
        return False
    tx.execute(
        "UPDATE lease SET parked = 1, deadline = ?, expires_at = ? WHERE id = ?",
        (now.monotonic + park_for, timestamp(now.wall_after(park_for)), lease.id),
    )
    tx.execute(
        "UPDATE parking SET parked_at = ?, moved_in = ? WHERE lease = ?",
        (timestamp(now.wall), max(0.0, now.monotonic - began), lease.id),
    )
    return True


def take_back(tx: sqlite3.Connection, lease: Lease, token: int, seconds: float, within: float, now: Moment) -> None:
    """It has its share again, with a new token; it is to be back `within` so many seconds. The schema raises
    IntegrityError where the device has not enough left."""
    ends_in = within + seconds
    tx.execute(
        "UPDATE lease SET parked = 0, token = ?, seconds = ?, deadline = ?, expires_at = ? WHERE id = ?",
        (token, seconds, now.monotonic + ends_in, timestamp(now.wall_after(ends_in)), lease.id),
    )
    tx.execute(
        "UPDATE parking SET step = ?, began = ?, parked_at = '' WHERE lease = ?",
        (ParkingStep.RETURNING, now.monotonic, lease.id),
    )


def finish(tx: sqlite3.Connection, lease: str, now: Moment, began: float | None = None) -> bool:
    """Nothing of it is in main memory any more. With `began`, that took the time since. False where it has begun to end
    meanwhile."""
    if not advance(tx, lease, [step for step in ParkingStep if step is not ParkingStep.PARKED], ParkingStep.NONE):
        return False
    tx.execute("UPDATE parking SET bytes = 0, frozen = '[]' WHERE lease = ?", (lease,))
    tx.execute("DELETE FROM parked_process WHERE lease = ?", (lease,))
    if began is not None:
        took = max(0.0, now.monotonic - began)
        tx.execute("UPDATE parking SET moved_in = ? WHERE lease = ?", (took, lease))
    return True


def proofs(db: sqlite3.Connection) -> list[Proof]:
    """What was shown here, the newest last."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_PROOFS,)).fetchone()
    return [Proof(**each) for each in json.loads(row[0])] if row else []


def record_proofs(tx: sqlite3.Connection, found: Sequence[Proof]) -> None:
    """In the place of what was shown before of the same GPU, driver and framework."""
    new = {(each.device, each.driver, each.framework): each for each in found}
    kept = [each for each in proofs(tx) if (each.device, each.driver, each.framework) not in new]
    told = json.dumps([asdict(each) for each in [*kept, *new.values()][-_MOST_PROOFS:]])
    tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_PROOFS, told))


def _row(found: Any) -> ParkingRow:
    lease, step, freeze, park_for, began, size, frozen, unproven, reason, message = found
    return ParkingRow(
        lease,
        ParkingStep(step),
        bool(freeze),
        park_for,
        began,
        size,
        tuple(json.loads(frozen)),
        bool(unproven),
        reason,
        message,
    )
