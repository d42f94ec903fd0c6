"""What leases, promises and use were, and are: the timeline of devices, reports, and how a job used its leases.

What is held now comes of the store, and what is over of the history (`cumulus.history`). What everybody may know of it
`redaction` says; reports and use are for those who may read the namespace. Leases that were made on a node itself are
in none: they are for those who may read all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from cumulus.answers.history import BY, By, HeldOverTime, HeldSeries, JobUse, LeaseRows, Report, Timeline
from cumulus.clock import Clock, timestamp
from cumulus.errors import UsageError
from cumulus.history import exported, facts, of_job, spans, totals
from cumulus.history.schema import reading
from cumulus.history.timeline import Lanes, TimeWindow
from cumulus.lib.printable import one_line
from cumulus.resources.key import Key
from cumulus.service.access.access import Access
from cumulus.service.identity import Identity
from cumulus.service.live_shares import SharesNow
from cumulus.service.redaction import Redaction
from cumulus.store.base import Store

MOST_PIXELS, MOST_POINTS = 20_000, 2000
_LATEST = 253_402_300_800_000
"""The year 10000."""


class History:
    """`file`: the history, which may not be there."""

    def __init__(self, store: Callable[[], Store], file: Path, access: Access, clock: Clock) -> None:
        self._file = file
        self._access = access
        self._redaction = Redaction(access)
        self._clock = clock
        self._live = SharesNow(store, clock)

    def timeline(self, identity: Identity, start: int, end: int, pixels: int) -> Timeline:
        """Each device's leases, promises and drains from `start` to `end` (milliseconds since 1970), for a picture so
        many pixels wide: what is smaller than one of them is merged. Raises UsageError."""
        _check_time(start, end)
        if not 1 <= pixels <= MOST_PIXELS:
            raise UsageError(f"pixels must be from 1 to {MOST_PIXELS}")
        window = TimeWindow(start, end, self._now())
        tell = self._redaction.spans(identity)
        live = self._live.now()
        lanes = Lanes(window, live.nodes, tell)
        held = [*live.leases, *(lease for node in live.nodes for lease in node.leases)]
        with reading(self._file) as db:
            if db is None:
                lanes.add_states_now(live.nodes)
                lanes.add_held(held, {})
            else:
                lanes.add_states(spans.states(db, window))
                for device, found in spans.past(db, window, pixels, tell):
                    lanes.add_past(device, found)
                # An end that was recorded is among the past ones.
                held = [lease for lease in held if lease.end is None or not spans.is_over(db, lease.uid)]
                lanes.add_held(held, spans.running(db))
                lanes.add_reservations(spans.reserved(db, window))
        lanes.add_promised(live.promised)
        lanes.add_reservations(one for one in live.reservations if one.end > window.now)
        return Timeline(now=window.now, start=start, end=end, lanes=lanes.made())

    def job_use(self, identity: Identity, key: Key) -> JobUse:
        """What each of a job's leases used, the newest first. Raises Forbidden."""
        self._access.check(identity, "get", "gpujobs", key.namespace, key.name)
        with reading(self._file) as db:
            found = [] if db is None else [*of_job.series(db, key.namespace, key.name)]
        return JobUse(now=self._now(), leases=found)

    def report(self, identity: Identity, since: int, until: int = 0, by: str = "user") -> Report:
        """What was held and used from `since` to `until` (milliseconds since 1970; 0: now), and which promises were
        kept, by user, queue or node. Raises UsageError."""
        now = self._now()
        until = min(until or now, now)
        _check_time(since, until)
        group = _by(by)
        first, last = timestamp(facts.to_datetime(since)), timestamp(facts.to_datetime(until))
        with reading(self._file) as db:
            time = totals.TimeRange(since, until, now)
            found, whole = ({}, totals.Total()) if db is None else totals.totals(db, time, group, self._sees(identity))
        rows = [total.row(group, name, first, last) for name, total in found.items()]
        rows.sort(key=lambda row: (-row["heldGpuHours"], row["name"]))
        everything = self._redaction.sees(identity, "")
        return Report(since=first, until=last, whole=everything, rows=rows, total=whole.row(group, "", first, last))

    def lease_rows(self, identity: Identity, since: int, until: int = 0, after: int = 0) -> LeaseRows:
        """The leases from `since` to `until` (milliseconds since 1970; 0: now), some at a time. `after`: what the last
        answer called next. Raises UsageError."""
        now = self._now()
        until = min(until or now, now)
        _check_time(since, until)
        if not 0 <= after < 1 << 62:
            raise UsageError("after must be what the last answer called next")
        with reading(self._file) as db:
            time = totals.TimeRange(since, until, now)
            rows, last = ([], None) if db is None else exported.rows(db, time, after, self._sees(identity))
        return LeaseRows(whole=self._redaction.sees(identity, ""), rows=rows, next=last)

    def held_over_time(
        self, identity: Identity, start: int, end: int, points: int = 100, by: str = "user"
    ) -> HeldOverTime:
        """How many devices each user, queue or node held in each of so many steps from `start` to `end` (milliseconds
        since 1970). Raises UsageError."""
        _check_time(start, end)
        if not 1 <= points <= MOST_POINTS:
            raise UsageError(f"points must be from 1 to {MOST_POINTS}")
        group, sees, time = _by(by), self._sees(identity), totals.TimeRange(start, end, self._now())
        step = -(-(end - start) // points)
        with reading(self._file) as db:
            found = {} if db is None else totals.held(db, time, step, points, group, sees)
            current = {} if db is None else totals.held_now(db, group, sees)
        series = [
            HeldSeries(name=name, now=current.get(name, 0.0), held=[round(each, 4) for each in held])
            for name, held in found.items()
        ]
        series.sort(key=lambda one: (-sum(one["held"]), one["name"]))
        return HeldOverTime(start=start, step=step, whole=self._redaction.sees(identity, ""), series=series)

    def _sees(self, identity: Identity) -> Callable[[str], bool]:
        return cache(partial(self._redaction.sees, identity))

    def _now(self) -> int:
        return facts.to_milliseconds(self._clock.now())


def _check_time(start: int, end: int) -> None:
    if not 0 <= start < end <= _LATEST:
        raise UsageError("the time must begin before it ends, both in milliseconds since 1970")


def _by(word: str) -> By:
    for each in BY:
        if each == word:
            return each
    raise UsageError(f"there is no report by {one_line(word)}", hint=f"it is {', '.join(BY)}")
