"""How long saves took, and how much time before the end of the lease the next one needs.

The times are kept in the directory of checkpoints, so that the first save of an attempt is as well planned as the last.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence

from .layout import OPEN, OPEN_NEW, TEMPORARY

NAME = ".save-times.json"
KEPT = 32
"""The newest ones count: a model may grow."""
MARGIN = 1.0
"""Seconds, and at least this part of a usual save: for what is not the save, such as a busy processor."""
MARGIN_PART = 0.2

_Z = 2.576
"""The normal distribution's percentile of 99.5."""
_USUAL_SPREAD = 0.5
_USUAL_WEIGHT = 2.0
"""As long as few saves were measured, their logarithms are taken to spread as if these many more had spread usually."""


def lead(times: Sequence[float], grace: float) -> float:
    """How many seconds before the end a save must begin, so that 99 of 100 are whole by then.

    Until one is measured that is the whole grace period. After that it is a high percentile of the measured times,
    taken as log-normal, plus a margin.
    """
    if not times:
        return grace
    logs = [math.log(max(seconds, 1e-3)) for seconds in times]
    middle = sum(logs) / len(logs)
    freedom = _USUAL_WEIGHT + len(logs) - 1
    spread = math.sqrt(
        (_USUAL_WEIGHT * _USUAL_SPREAD**2 + sum((log - middle) ** 2 for log in logs)) / freedom * (1 + 1 / len(logs))
    )
    # Student's percentile, near enough: what is known from few saves is less sure.
    percentile = math.exp(middle + spread * (_Z + (_Z**3 + _Z) / (4 * freedom)))
    # One save alone says little of how much they differ. Nothing measured is a reason to plan for more than this.
    bounded = min(percentile, max(grace, 3 * max(times)))
    return bounded + max(MARGIN, MARGIN_PART * math.exp(middle))


def read(path: str) -> list[float]:
    """The times that are kept below a directory of checkpoints, oldest first; none where there are none to be read."""
    try:
        descriptor = os.open(os.path.join(path, NAME), OPEN)
        with open(descriptor, encoding="ascii") as file:
            if os.fstat(descriptor).st_uid != os.geteuid():
                return []
            found = json.loads(file.read(10_000))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(found, list):
        return []
    return [float(one) for one in found[-KEPT:] if type(one) in (int, float) and 0 < one < 1e6]


def write(path: str, times: Sequence[float]) -> None:
    """Keep the newest times. No error where that is not possible: the next lease is planned by older ones."""
    temporary = os.path.join(path, f"{TEMPORARY}save-times-{os.getpid()}")
    with contextlib.suppress(OSError):
        try:
            descriptor = os.open(temporary, OPEN_NEW, 0o600)
            with open(descriptor, "w", encoding="ascii") as file:
                json.dump([round(one, 4) for one in times[-KEPT:]], file)
            os.rename(temporary, os.path.join(path, NAME))
        except OSError:
            os.unlink(temporary)
            raise
