"""How often each of many may do something: a bucket of tokens for each, which fills up with time."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable


class Rates:
    """`rate` a second, and `burst` at once. Keeps no more than `most` of them: the ones that ask least are forgotten.

    For one event loop, or under a lock. `now`: seconds of a clock that never goes back."""

    def __init__(
        self, rate: float, burst: float, *, most: int = 4096, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._now = now
        self._left: dict[Hashable, tuple[float, float]] = {}
        """What was left, and when. Who asked last comes last."""

    def take(self, who: Hashable) -> float:
        """Take one: 0, or the seconds after which there is one again."""
        now = self._now()
        left, when = self._left.pop(who, (self._burst, now))
        left = min(self._burst, left + (now - when) * self._rate)
        allowed = left >= 1
        self._left[who] = (left - 1 if allowed else left, now)
        while len(self._left) > self._most:
            self._left.pop(next(iter(self._left)), None)
        return 0.0 if allowed else (1 - left) / self._rate
