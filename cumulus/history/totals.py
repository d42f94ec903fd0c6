"""What was held and used in a time, and whether promises were kept: summed for reports.

A lease that lies in the time in part counts in part, with what it used on average. A share counts as its part of a
device, the larger of memory and compute, as queues count it.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from cumulus.answers.history import By, ReportRow
from cumulus.history.timeline import Sees

_GROUPS: Mapping[By, str] = {"user": "l.owner", "queue": "l.queue", "node": "d.node"}
_HOUR = 3_600_000
OVERLAP = "(min(coalesce(l.ended, :now), :until) - max(l.start, :since))"
_LEASES = "FROM leases l JOIN devices d ON d.id = l.device"
_NAMED = f"{_LEASES} JOIN names n ON n.id = {{group}} JOIN names ns ON ns.id = l.namespace"
_WITHIN = "WHERE (l.ended > :since OR l.ended IS NULL) AND l.start < :until AND NOT l.parked"
LASTED = "max(1, coalesce(l.ended, :now) - l.start)"
_TOTALS = f"""
SELECT n.text, ns.text, leases, held, known, busy FROM (
    SELECT {{group}} AS who, l.namespace AS namespace, count(*) AS leases,
           sum({OVERLAP} * l.share) AS held,
           sum({OVERLAP} * l.share * min(1.0, l.known * 1.0 / {LASTED})) AS known,
           sum({OVERLAP} * l.share * min(1.0, l.busy * 1.0 / {LASTED})) AS busy
    {_LEASES} {_WITHIN} GROUP BY 1, 2
) JOIN names n ON n.id = who JOIN names ns ON ns.id = namespace
"""
_PROMISES = """
SELECT n.text, ns.text, p.made, p.latest, p.started, p.closed FROM promises p
JOIN names n ON n.id = {group} JOIN names ns ON ns.id = p.namespace
WHERE p.closed > :since AND p.made < :until
"""
_PROMISE_GROUPS: Mapping[By, str] = {"user": "p.owner", "queue": "p.queue", "node": "0"}
"""A promise is no node's: it may be kept on another one."""


class TimeRange(NamedTuple):
    """Milliseconds since 1970; `now` is at most `until`, or leases that run count up to it."""

    since: int
    until: int
    now: int


class PromiseOutcome(NamedTuple):
    """Of one promise."""

    promised: float
    """Seconds from the promise to the latest start that it named."""
    actual: float | None
    """Seconds from the promise to the start; None where there was none."""
    kept: bool


class Total:
    """Of one user, queue or node. Thousandths of a device times milliseconds."""

    def __init__(self) -> None:
        self.leases = 0
        self.held = self.known = self.busy = 0.0
        self.outcomes: list[PromiseOutcome] = []

    def add(self, leases: int, held: float, known: float, busy: float) -> None:
        self.leases += leases
        self.held += held
        self.known += known
        self.busy += busy

    def row(self, by: By, name: str, since: str, until: str) -> ReportRow:
        waits = [outcome.actual for outcome in self.outcomes if outcome.actual is not None]
        return ReportRow(
            by=by, name=name, since=since, until=until, leases=self.leases, heldGpuHours=hours(self.held),
            usedGpuHours=hours(self.busy), idleGpuHours=hours(max(0.0, self.known - self.busy)),
            unknownGpuHours=hours(max(0.0, self.held - self.known)), promises=len(self.outcomes),
            promisesKept=sum(outcome.kept for outcome in self.outcomes),
            medianPromisedWaitSeconds=_median([outcome.promised for outcome in self.outcomes]),
            medianActualWaitSeconds=_median(waits),
        )  # fmt: skip


def totals(db: sqlite3.Connection, time: TimeRange, by: By, sees: Sees) -> tuple[Mapping[str, Total], Total]:
    """Of what the viewer may see: by name, and in all. What is of no user or queue has the name ""."""
    found: defaultdict[str, Total] = defaultdict(Total)
    whole = Total()
    given = time._asdict()
    for name, namespace, *sums in db.execute(_TOTALS.format(group=_GROUPS[by]), given):
        if sees(namespace):
            found[name].add(*sums)
            whole.add(*sums)
    for name, namespace, outcome in _outcomes(db, time, by):
        if sees(namespace):
            whole.outcomes.append(outcome)
            if by != "node":
                found[name].outcomes.append(outcome)
    return found, whole


def _outcomes(db: sqlite3.Connection, time: TimeRange, by: By) -> Iterator[tuple[str, str, PromiseOutcome]]:
    """Of promises whose outcome became known in the time. One whose job gave up before its time was neither kept nor
    broken."""
    rows = db.execute(_PROMISES.format(group=_PROMISE_GROUPS[by]), time._asdict())
    for name, namespace, made, latest, started, closed in rows:
        if started is None and closed <= latest:
            continue
        yield name, namespace, PromiseOutcome(
            max(0.0, (latest - made) / 1000), None if started is None else max(0.0, (started - made) / 1000),
            started is not None and started <= latest,
        )  # fmt: skip


def held(
    db: sqlite3.Connection, time: TimeRange, step: int, points: int, by: By, sees: Sees
) -> Mapping[str, Sequence[float]]:
    """How many devices were held in each of so many steps of the time, on average, by name."""
    rows = db.execute(
        "SELECT n.text, ns.text, max(l.start, :since), min(coalesce(l.ended, :now), :until), l.share "
        f"{_NAMED.format(group=_GROUPS[by])} {_WITHIN}",
        time._asdict(),
    )
    found: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * points)
    for name, namespace, start, end, share in rows:
        if sees(namespace):
            _spread(found[name], start - time.since, end - time.since, step, share / 1000)
    return found


def held_now(db: sqlite3.Connection, by: By, sees: Sees) -> Mapping[str, float]:
    """How many devices are held, by name."""
    found: defaultdict[str, float] = defaultdict(float)
    for name, namespace, share in db.execute(
        f"SELECT n.text, ns.text, sum(l.share) {_NAMED.format(group=_GROUPS[by])} "
        "WHERE l.ended IS NULL AND NOT l.parked GROUP BY 1, 2"
    ):
        if sees(namespace):
            found[name] += share / 1000
    return found


def _spread(held: list[float], start: int, end: int, step: int, share: float) -> None:
    at = start
    while at < end:
        index = at // step
        until = min(end, (index + 1) * step)
        held[index] += share * (until - at) / step
        at = until


def hours(amount: float) -> float:
    return round(amount / 1000 / _HOUR, 6)


def _median(values: Sequence[float]) -> float | None:
    return round(median(values), 3) if values else None
