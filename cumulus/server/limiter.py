"""How much one user may ask of a server, so that the others have their part.

Not for root and the user whose server it is: who may end the daemon needs no limit, and their own loops stay as fast as
they are.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from cumulus.errors import TooManyRequests
from cumulus.server.rates import Rates
from cumulus.service.identity import Identity


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Of one user, over all their connections."""

    a_second: float = 200.0
    at_once: int = 1000
    """Requests that may come in a burst, after a quiet time."""
    open: int = 256
    """Requests that are being answered: watches and logs that are followed, as long as they last."""


class Limiter:
    """One for each server, which several listeners share."""

    def __init__(self, limits: RequestLimits, owner: int) -> None:
        self._limits = limits
        self._free = (0, owner)
        self._rates = Rates(limits.a_second, limits.at_once)
        self._open: Counter[tuple[str, int | None]] = Counter()
        self._lock = threading.Lock()

    def is_free(self, identity: Identity) -> bool:
        """Whether nothing is counted of what they do."""
        return identity.uid in self._free

    def begin(self, identity: Identity) -> bool:
        """Whether the request counts, and is to be ended with `end`. Raises TooManyRequests."""
        if self.is_free(identity):
            return False
        who = identity[:2]
        with self._lock:
            if self._open[who] >= self._limits.open:
                raise TooManyRequests(
                    f"{identity.name} has {self._limits.open} requests open", seconds=5,
                    hint="end a watch, or a log that is followed",
                )  # fmt: skip
            if wait := self._rates.take(who):
                raise TooManyRequests(f"{identity.name} asks too fast", seconds=wait)
            self._open[who] += 1
        return True

    def end(self, identity: Identity) -> None:
        who = identity[:2]
        with self._lock:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who]
