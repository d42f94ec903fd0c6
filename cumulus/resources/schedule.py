"""When a cron schedule is due, in a time zone: pure. Five fields as in crontab(5), or @hourly, @daily, @weekly, …

Times of day that a clock change leaves out are taken at the moment of the change; those that come twice, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_NAMED = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
_FIRST_WINDOW = timedelta(hours=1)


def check_schedule(text: str) -> str:
    """Raises ValueError."""
    from cronsim import CronSim, CronSimError

    problem = f"{text[:80]!r} is no schedule; write minute, hour, day, month and weekday, as in 30 2 * * MON-FRI"
    fields = _NAMED.get(text.strip(), text).split()
    if len(fields) != 5 or len(text) > 200:
        raise ValueError(problem)
    try:
        next(CronSim(" ".join(fields), datetime(2024, 1, 1)))
    except (CronSimError, StopIteration, AssertionError) as error:
        why = str(error)
        raise ValueError(f"{problem} ({why})" if why else problem) from None
    return text


def following(schedule: str, zone: str, now: datetime) -> datetime | None:
    """The first time after `now`; None where there is none in decades."""
    return next(_times(schedule, zone, now), None)


def latest(schedule: str, zone: str, after: datetime, now: datetime) -> datetime | None:
    """The last time that is later than `after` and not later than `now`. A schedule that was due very often since is
    not walked through from the start."""
    window = _FIRST_WINDOW
    while True:
        start = max(after, now - window)
        found = None
        for time in _times(schedule, zone, start):
            if time > now:
                break
            found = time
        if found is not None or start == after:
            return found
        window *= 8


def _times(schedule: str, zone: str, after: datetime) -> Iterator[datetime]:
    """Of a valid schedule, in UTC."""
    from cronsim import CronSim

    start: datetime = after.astimezone(ZoneInfo(zone)) if zone != "UTC" else after.astimezone(UTC)
    for each in CronSim(_NAMED.get(schedule.strip(), schedule), start):
        time: datetime = each.astimezone(UTC)
        # In the hour that comes twice, its first half is over.
        if time > after:
            yield time
