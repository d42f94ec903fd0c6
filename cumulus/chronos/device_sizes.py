"""How much memory of a device can be leased while drivers change what they report: updates, resizes, ECC.

    drivers -> settled (is it another size?) -> follow (at once, or as far as leases let it) -> the device's row

While leases live on a device they keep what they were granted: its size shrinks to them at most, so that nothing is
free, and the rest follows when the last one ends. Inside transactions of the ledger, as `records`.
"""

from __future__ import annotations

import json
import sqlite3

_NOTABLE = 8
"""A CPU's size follows only what changes by more than an eighth: it is the machine's main memory, of which PoCL says
more or less from day to day, and which everybody shares anyway. That of all others is exact."""


def settled(type: str, known: int, said: int) -> int:
    """The size of a device that was `known` bytes large, of which its driver says now that it is `said`."""
    return known if type == "cpu" and abs(said - known) * _NOTABLE <= known else said


def follow(tx: sqlite3.Connection, id: str, size: int) -> None:
    """Let the device be `size` bytes large, as far as its leases let it."""
    used, known = tx.execute("SELECT used_memory, memory_bytes FROM device WHERE id = ?", (id,)).fetchone()
    now = max(used, min(known, size)) if used else size
    if now != known:
        tx.execute("UPDATE device SET memory_bytes = ? WHERE id = ?", (now, id))
    waiting = pending(tx)
    if waiting.get(id, now) != size or (id in waiting and now == size):
        waiting.pop(id, None)
        if now != size:
            waiting[id] = size
        tx.execute("INSERT OR REPLACE INTO meta VALUES ('sizes', ?)", (json.dumps(waiting),))


def pending(db: sqlite3.Connection) -> dict[str, int]:
    """By device id: the size that it has once no lease lives there, where that is another than now."""
    row = db.execute("SELECT value FROM meta WHERE key = 'sizes'").fetchone()
    return dict(json.loads(row[0])) if row else {}


def lease_ended(tx: sqlite3.Connection, device_id: str) -> None:
    """Let the device follow now, if it waits for its leases to end."""
    waiting = pending(tx)
    if device_id in waiting:
        follow(tx, device_id, waiting[device_id])
