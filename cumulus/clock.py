"""Where time comes from. Everything takes a `Clock`, so that a simulation can control it.

`now` is wall-clock time for people and for status; `monotonic` is for intervals and expiry within one
process or one boot of a node and never jumps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Two clocks and a way to wait."""

    def now(self) -> datetime:
        """Wall-clock time, timezone-aware UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back, counts while the machine is suspended."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block for `seconds` of `monotonic`."""
        ...


class SystemClock:
    """The machine's clocks. `monotonic` also counts while the machine sleeps: CLOCK_BOOTTIME on Linux,
    CLOCK_MONOTONIC_RAW on macOS (untested there). On Windows, where no lease is kept, it is Python's own."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return _monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class FakeClock:
    """A clock that moves only when told: for tests and the simulation."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2030, 1, 1, tzinfo=UTC)
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let `seconds` (at least 0) pass on both clocks."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP would; `monotonic` is untouched."""
        self._now += timedelta(seconds=seconds)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and a `Z`: Kubernetes' MicroTime, the one format objects carry."""
    # Not strftime, which takes three times as long.
    return moment.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def short_timestamp(moment: datetime) -> str:
    """The same to the second: 2030-01-31T12:00:00Z, Kubernetes' Time."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").removesuffix("+00:00") + "Z"


def to_the_second(text: str) -> str:
    """A timestamp as people are shown it: 2030-01-31T12:00:00Z. What is no timestamp stays as it is."""
    try:
        return short_timestamp(parse_timestamp(text))
    except (ValueError, OverflowError):
        return text


def parse_timestamp(text: str) -> datetime:
    """The inverse of `timestamp`; any RFC 3339 text is read. Raises ValueError."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _clock() -> Callable[[], float]:
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW"):
        if hasattr(time, name):
            return partial(time.clock_gettime, getattr(time, name))
    return time.monotonic


_monotonic = _clock()
