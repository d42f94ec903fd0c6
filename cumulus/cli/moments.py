"""Times to come that a person types."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

from cumulus.cli import options
from cumulus.errors import UsageError

_CLOCK = re.compile(r"\d{1,2}:\d{2}")
_HINT = "write 2030-01-31T09:00:00Z, 22:00 for the next 22:00 here, or 2h for in two hours"


def to_come(text: str, option: str, now: datetime) -> datetime:
    """A moment; one without a zone is this machine's. Raises UsageError, also for what is over."""
    found = _moment(text, option, now)
    if found <= now:
        raise UsageError(f"{option}: {text!r} is over", hint=_HINT)
    return found


def _moment(text: str, option: str, now: datetime) -> datetime:
    try:
        if _CLOCK.fullmatch(text):
            hour, minute = map(int, text.split(":"))
            return _next(time(hour, minute), now)
        if not text.isdecimal():
            # One without a zone gets this machine's.
            return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        pass
    try:
        seconds = None if text.isdecimal() else options.seconds_of(text, option)
    except UsageError:
        seconds = None
    if seconds is None:
        raise UsageError(f"{option}: {text[:40]!r} is no time", hint=_HINT)
    return now + timedelta(seconds=seconds)


def _next(at: time, now: datetime) -> datetime:
    here = now.astimezone()
    for day in (here.date(), here.date() + timedelta(days=1)):
        # Anew each day: the clocks may change in between.
        if (found := datetime.combine(day, at).astimezone()) > now:
            return found
    raise ValueError(at)
