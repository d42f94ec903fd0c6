"""How the devices of this machine reach each other, and of which GPU an instance is, as discovery found it. It is kept
by device id, since indices are the ledger's. Inside transactions of the ledger, as `records`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from cumulus.resources.device import Device, Link

Links = tuple[tuple[Link, tuple[int, ...]], ...]


def record(tx: sqlite3.Connection, found: Sequence[Device]) -> None:
    """Take over those of the devices, whose indices are those of the list."""
    ids = {device.index: device.id for device in found}
    told = {d.id: [[link, [ids[index] for index in peers]] for link, peers in d.links] for d in found if d.links}
    tx.execute("INSERT OR REPLACE INTO meta VALUES ('links', ?)", (json.dumps(told),))
    parents = {device.id: device.parent for device in found if device.parent}
    tx.execute("INSERT OR REPLACE INTO meta VALUES ('parents', ?)", (json.dumps(parents),))


def of_all(db: sqlite3.Connection, numbers: Mapping[str, int]) -> dict[str, Links]:
    """By device id, with the indices that the ledger gives the devices (`numbers`, by id)."""
    row = db.execute("SELECT value FROM meta WHERE key = 'links'").fetchone()
    told = json.loads(row[0]) if row else {}
    return {
        id: tuple(
            (Link(link), tuple(sorted(numbers[peer] for peer in peers if peer in numbers))) for link, peers in ways
        )
        for id, ways in told.items()
    }


def parents(db: sqlite3.Connection) -> dict[str, str]:
    """The ids of the GPUs that instances are of, by the instance's id."""
    row = db.execute("SELECT value FROM meta WHERE key = 'parents'").fetchone()
    return dict(json.loads(row[0])) if row else {}
