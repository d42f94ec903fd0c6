"""Exponential back-off: how long to wait before trying again. Standard library only.

Pure: the caller counts failures, keeps the time and brings the chance, so that a simulation can own all three.
"""

from __future__ import annotations

from typing import NamedTuple

_MOST_DOUBLINGS = 40


class Backoff(NamedTuple):
    """Waits in seconds that double with each failure, from `first` up to `longest`.

    `jitter` is the part of a wait, from 0 to 1, that is left to chance, so that those who failed together do not return
    together.
    """

    first: float
    longest: float
    jitter: float = 0.0

    def seconds(self, failures: int, chance: float = 1.0) -> float:
        """The wait after `failures` earlier ones, 0 after the first. `chance`, from 0 to 1, picks from the jitter."""
        whole = min(self.longest, self.first * 2.0 ** min(max(0, failures), _MOST_DOUBLINGS))
        return whole * (1.0 - self.jitter * (1.0 - chance))
