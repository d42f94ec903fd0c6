"""Delays what is best done once for several changes, such as reading a node again or writing events."""

from __future__ import annotations


class Throttle:
    """Due `soon` seconds after a change, and no more often than every `interval` seconds where changes keep coming.
    After a rest, `burst` of them come soon before they are spaced. It is ITU-T I.371's virtual scheduling (GCRA).

    Not for use by several threads.
    """

    def __init__(self, *, soon: float, interval: float, burst: int) -> None:
        self._soon = soon
        self._interval = interval
        self._lead = (burst - 1) * interval
        self._due = float("-inf")
        self._steady = float("-inf")
        """When the next one would be due, were they all `interval` apart."""

    def due(self, now: float) -> float:
        """When it is to be done for a change at `now`: what is yet to be done will see this change too."""
        if self._due <= now:
            self._due = max(now + self._soon, self._steady - self._lead)
            self._steady = max(self._steady, self._due) + self._interval
        return self._due
