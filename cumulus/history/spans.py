"""What was in a window of time, read for a picture: leases that are over, the places of those that run, and when nodes
took nothing or did not answer.

SQLite picks the leases that touch the window by its index of ends, and merges by itself those that are too short to be
seen. So a picture of a year costs little more than one of an hour.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cumulus.answers.history import Span, SpanKind
from cumulus.history.facts import WHOLE, DeviceFact, ReservationFact
from cumulus.history.schema import DOWN, DRAINED, ENFORCEMENTS, PHASES
from cumulus.history.series import NOTHING, Sample, Series
from cumulus.history.timeline import Known, Tell, TimeWindow
from cumulus.history.writer import pieces_of, text_of, uid_of

MOST_SPANS = 50_000
"""Where there would be more, what is as wide as a few pixels is merged too."""
_KINDS: Mapping[int, SpanKind] = {DRAINED: "Drain", DOWN: "Down"}

_WIDE = """
SELECT device, start, ended, place, height, pieces, namespace, j.text, owner, phase, enforcement, promised, known,
       busy, told, used, parked
FROM leases JOIN names j ON j.id = job WHERE ended > :start AND start < :end AND ended - start >= :least
"""
_NARROW = """
SELECT device, start / :step, min(start), max(ended), sum(height * (ended - start)), count(*),
       min(namespace), max(namespace), min(job), max(job), min(owner), max(owner), min(phase), max(phase),
       sum(known), sum(busy), sum(told), sum(used), min(place), min(height), min(enforcement), max(enforcement)
FROM leases WHERE ended > :start AND start < :end AND ended - start < :least AND NOT parked
GROUP BY device, start / :step
"""
_COUNT = """
SELECT count(*) FILTER (WHERE ended - start >= :least) FROM leases WHERE ended > :start AND start < :end
"""


def past(
    db: sqlite3.Connection, window: TimeWindow, pixels: int, tell: Tell
) -> Iterator[tuple[DeviceFact, list[Span]]]:
    """The leases that are over, by device, in no particular order, as the viewer may see them."""
    step = max(1, (window.end - window.start) // pixels)
    given = {"start": window.start, "end": window.end, "least": step, "step": step}
    while db.execute(_COUNT, given).fetchone()[0] > MOST_SPANS:
        given["step"] = given["least"] = given["least"] * 2
    found: defaultdict[int, list[Span]] = defaultdict(list)
    names = _Names(db)
    for device, *row in db.execute(_WIDE, given):
        found[device] += _wide(row, window, names, tell)
    for device, *row in db.execute(_NARROW, given):
        found[device].append(_narrow(row, window, names, tell, given["step"]))
    devices = _devices(db, found)
    for device, spans in found.items():
        yield devices[device], spans


class _Names:
    """Texts by number, each read once."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._texts: dict[int, str] = {0: ""}

    def text(self, id: int) -> str:
        if id not in self._texts:
            row = self._db.execute("SELECT text FROM names WHERE id = ?", (id,)).fetchone()
            self._texts[id] = row[0] if row else ""
        return self._texts[id]

    def job(self, namespace: int, job: str) -> str | None:
        """NAMESPACE/NAME."""
        return f"{self.text(namespace)}/{job}" if job else None


def _wide(row: Sequence[Any], window: TimeWindow, names: _Names, tell: Tell) -> Iterator[Span]:
    (start, ended, offset, height, packed, namespace, job, owner, phase, enforcement, promised, known, busy, told,
     used, parked) = row  # fmt: skip
    for piece in pieces_of(offset, height, packed):
        span: Span = {
            "kind": "Parked" if parked else "Lease", "start": max(start, window.start), "end": min(ended, window.end),
            "share": piece.height / WHOLE, "offset": piece.offset / WHOLE,
            "used": round(used / told, 3) if told else None, "busy": round(busy / known, 3) if known else None,
            "job": names.job(namespace, job), "user": names.text(owner) or None,
            "phase": PHASES[phase], "enforcement": ENFORCEMENTS[enforcement], "latestStart": promised, "merged": 1,
        }  # fmt: skip
        yield tell(span, names.text(namespace), True)


def _narrow(row: Sequence[Any], window: TimeWindow, names: _Names, tell: Tell, step: int) -> Span:
    (_, start, ended, area, count, namespace, other_namespace, job, other_job, owner, other_owner, phase, other_phase,
     known, busy, told, used, offset, height, enforcement, other_enforcement) = row  # fmt: skip
    one_job = namespace == other_namespace and job == other_job
    # As high as it must be to have the area of all that it stands for. A single one keeps its height.
    share = height if count == 1 else min(WHOLE, max(1, area // max(1, ended - start)))
    span: Span = {
        "kind": "Lease", "start": max(start, window.start), "end": max(min(ended, window.end), start + 1),
        "share": share / WHOLE, "offset": offset / WHOLE if count == 1 else 0.0,
        "used": round(used / told, 3) if told else None, "busy": round(busy / known, 3) if known else None,
        "job": names.job(namespace, names.text(job)) if one_job else None,
        "user": (names.text(owner) or None) if owner == other_owner else None,
        "phase": PHASES[phase] if phase == other_phase else "",
        "enforcement": ENFORCEMENTS[enforcement] if enforcement == other_enforcement else "",
        "latestStart": None, "merged": count,
    }  # fmt: skip
    for each in {namespace, other_namespace}:
        span = tell(span, names.text(each), True)
    return span


def _devices(db: sqlite3.Connection, wanted: Mapping[int, Any]) -> Mapping[int, DeviceFact]:
    rows = db.execute(
        "SELECT d.id, n.text, d.number, d.uuid, d.name, d.memory, d.parent FROM devices d JOIN names n ON n.id = d.node"
    )
    return {row[0]: DeviceFact(*row[1:]) for row in rows if row[0] in wanted}


def running(db: sqlite3.Connection) -> Mapping[str, Known]:
    """What is known of the leases that run, by uid: where they lie, and what they used last."""
    found = {}
    for uid, start, offset, height, packed, promised, first, step, samples in db.execute(
        "SELECT l.uid, l.start, l.place, l.height, l.pieces, l.promised, s.first, s.step, substr(s.samples, -2) "
        "FROM leases l LEFT JOIN series s ON s.lease = l.id WHERE l.ended IS NULL"
    ):
        last = NOTHING
        if samples:
            series = Series(first, step, samples)
            last = Sample(series.used[-1], series.busy[-1])
        found[text_of(uid)] = Known(pieces_of(offset, height, packed), last, promised, start)
    return found


def is_over(db: sqlite3.Connection, uid: str) -> bool:
    """Whether the end of the lease is recorded, also of one that was parked in between."""
    rows = db.execute("SELECT ended FROM leases WHERE uid = ?", (uid_of(uid),)).fetchall()
    return bool(rows) and all(ended is not None for (ended,) in rows)


def states(db: sqlite3.Connection, window: TimeWindow) -> Iterator[tuple[str, int, SpanKind, int, int | None]]:
    """When nodes and devices took nothing or did not answer: node, number (`writer.NODE` for all of its devices), kind,
    from, to (None: still)."""
    rows = db.execute(
        "SELECT n.text, s.number, s.kind, s.start, s.ended FROM states s JOIN names n ON n.id = s.node "
        "WHERE (s.ended > ? OR s.ended IS NULL) AND s.start < ?",
        (window.start, window.end),
    )
    for node, number, kind, start, ended in rows:
        yield node, number, _KINDS[kind], start, ended


def reserved(db: sqlite3.Connection, window: TimeWindow) -> Iterator[ReservationFact]:
    """What was held by reservations that are over."""
    rows = db.execute(
        "SELECT n.text, r.number, r.start, r.ended, w.text FROM reserved r JOIN names n ON n.id = r.node "
        "JOIN names w ON w.id = r.whose WHERE r.ended > :start AND r.start < :end AND r.ended <= :now",
        {"start": window.start, "end": window.end, "now": window.now},
    )
    for node, number, start, ended, text in rows:
        yield ReservationFact(start, ended, ((node, number),), text)
