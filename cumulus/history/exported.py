"""The leases themselves, one row each, for spreadsheets and programs: in the order in which they were recorded."""

from __future__ import annotations

import sqlite3
from typing import Any

from cumulus.answers.history import LeaseRow
from cumulus.clock import timestamp
from cumulus.history import facts
from cumulus.history.schema import ENFORCEMENTS, PHASES
from cumulus.history.timeline import Sees
from cumulus.history.totals import LASTED, OVERLAP, TimeRange, hours

BATCH = 1000
"""Rows that are read at once."""
# The planner is kept from the index of ends: the rows come by their id, and end at the limit.
_ROWS = f"""
SELECT l.id, u.text, ns.text, j.text, q.text, n.text, d.number, d.name, d.uuid, l.attempt, l.replica, l.phase, l.parked,
       l.start, l.ended, l.begun, l.expires, l.promised, l.share, l.memory, l.enforcement, l.known, l.busy, l.told,
       l.used, {OVERLAP}, {LASTED}
FROM leases l CROSS JOIN devices d ON d.id = l.device JOIN names n ON n.id = d.node
JOIN names u ON u.id = l.owner JOIN names ns ON ns.id = l.namespace JOIN names j ON j.id = l.job
JOIN names q ON q.id = l.queue
WHERE l.id > :after AND (+l.ended > :since OR +l.ended IS NULL) AND l.start < :until ORDER BY l.id LIMIT :most
"""


def rows(db: sqlite3.Connection, time: TimeRange, after: int, sees: Sees) -> tuple[list[LeaseRow], int | None]:
    """The next leases of the time after the one with that id, of which the viewer may see the namespace; and the id
    after which to ask again, None where there are no more."""
    found, last, count = [], after, 0
    for id, *row in db.execute(_ROWS, {**time._asdict(), "after": after, "most": BATCH}):
        last, count = id, count + 1
        if sees(row[1]):
            found.append(_row(row))
    return found, last if count == BATCH else None


def _row(row: list[Any]) -> LeaseRow:
    (user, namespace, job, queue, node, device, device_name, uuid, attempt, replica, phase, parked, start, ended,
     begun, expires, promised, share, memory, enforcement, known, busy, told, used, overlap, lasted) = row  # fmt: skip
    held = 0 if parked else overlap * share
    used_part, known_part = held * min(1.0, busy / lasted), held * min(1.0, known / lasted)
    return LeaseRow(
        user=user, namespace=namespace, job=job, queue=queue, node=node, device=device, deviceName=device_name,
        deviceUuid=uuid, attempt=attempt, replica=replica, phase=PHASES[phase], parked=bool(parked),
        start=timestamp(facts.to_datetime(start)), end=_moment(ended), started=_moment(begun),
        expires=_moment(expires), promisedStart=_moment(promised), share=0.0 if parked else share / 1000,
        memoryBytes=memory, enforcement=ENFORCEMENTS[enforcement],
        memoryUsed=round(used / told, 3) if told else None, computeUsed=round(busy / known, 3) if known else None,
        heldGpuHours=hours(held), usedGpuHours=hours(used_part), idleGpuHours=hours(known_part - used_part),
        unknownGpuHours=hours(held - known_part),
    )  # fmt: skip


def _moment(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else timestamp(facts.to_datetime(milliseconds))
