"""When the lease ends, on this node's clock."""

from __future__ import annotations

import datetime
import math
import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""It also runs while the machine sleeps, as leases do; not every system has it."""


def now() -> float:
    """Seconds on the clock by which leases end."""
    return time.clock_gettime(_CLOCK)


class LeaseEnd:
    """The end of the lease: `deadline` is a number or the path of a file that holds it; `expires_at` is wall-clock
    time, which counts only where there is no deadline."""

    def __init__(self, deadline: str | None, expires_at: str | None = None) -> None:
        self._file: str | None = None
        self._at = math.inf
        number = _number(deadline)
        if number is not None:
            self._at = number
        elif deadline is not None and deadline.startswith("/"):
            self._file = deadline
        elif expires_at is not None:
            self._at = min(map(_from_wall_clock, expires_at.split(",")))

    def read(self) -> float:
        """When it ends; infinity where there is no lease. A file that cannot be read now leaves what it said before."""
        if self._file is not None:
            try:
                with open(self._file, encoding="ascii") as file:
                    number = _number(file.read(100))
            except (OSError, ValueError):
                number = None
            if number is not None:
                self._at = number
        return self._at


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _from_wall_clock(text: str) -> float:
    try:
        moment = datetime.datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        return math.inf
    if moment.tzinfo is None:
        return math.inf
    return now() + moment.timestamp() - time.time()
