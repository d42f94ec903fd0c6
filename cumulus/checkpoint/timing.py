"""When the next checkpoint is due: pure, with the times given.

A cause is due until a save began after it came up. The end of the lease is one, as soon as what is left is what a save
needs; a request of the node and the stop signal are others, and `every` is the fourth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

from . import save_times


class DueCause(IntEnum):
    """Why a checkpoint is due; the higher one counts."""

    NONE = 0
    EVERY = 1
    LEASE_END = 2
    REQUEST = 3
    STOP_SIGNAL = 4


WORDS = {
    DueCause.NONE: "",
    DueCause.EVERY: "the time between two checkpoints has passed",
    DueCause.LEASE_END: "the lease ends",
    DueCause.REQUEST: "the node asks for it",
    DueCause.STOP_SIGNAL: "the stop signal came",
}


class Timing:
    """What is known of one run. All times are seconds on one clock."""

    def __init__(self, now: float, *, every: float | None, grace: float, times: Sequence[float] = ()) -> None:
        self.every = every
        self.times = list(times)
        self._grace = grace
        self._save_lead = save_times.lead(self.times, grace)
        self._late_enough = 0.0
        self.lease_end = math.inf
        self.stop_at = math.inf
        self.request_at = math.inf
        self.pace = 0.0
        """Seconds between two looks of the training loop: it may look just too early."""
        self.saving = -math.inf
        """When the save began that runs beside the program: what it answers is not due twice."""
        self._saved = -math.inf
        self._began = now

    def lead(self) -> float:
        """How long before the end of the lease a save has to begin."""
        return self._save_lead + self.pace

    def saved(self, began: float, seconds: float) -> None:
        """The save that began then is whole, and took this long."""
        # Where none had been measured, only now is it known whether this one was the last: it may have been far too
        # early. Else it was by what was known when it began.
        known = self.lead() if self.times else 0.0
        self.times = [*self.times[1 - save_times.KEPT :], seconds]
        self._save_lead = save_times.lead(self.times, self._grace)
        self._saved = began
        self._late_enough = known or self.lead()

    def due(self, now: float) -> DueCause:
        """Why a save should begin now."""
        begun = max(self._saved, self.saving)
        if begun < self.stop_at <= now:
            return DueCause.STOP_SIGNAL
        if begun < self.request_at <= now:
            return DueCause.REQUEST
        if now >= self.lease_end - self.lead() and self.saving <= self._saved and not self._saved_for_the_end():
            return DueCause.LEASE_END
        if self.every is not None and now >= max(begun, self._began) + self.every:
            return DueCause.EVERY
        return DueCause.NONE

    def ending(self) -> DueCause:
        """Why the run should end now: what it was to save first is saved."""
        if self.stop_at <= self._saved:
            return DueCause.STOP_SIGNAL
        if self.request_at <= self._saved:
            return DueCause.REQUEST
        return DueCause.LEASE_END if self._saved_for_the_end() else DueCause.NONE

    def next_by_clock(self) -> float:
        """When something will be due, if nothing else happens."""
        every = math.inf if self.every is None else max(self._saved, self.saving, self._began) + self.every
        return min(every, math.inf if self._saved_for_the_end() else self.lease_end - self.lead())

    def _saved_for_the_end(self) -> bool:
        """Whether the last save was late enough to be the last of this lease."""
        return self._saved >= self.lease_end - self._late_enough
