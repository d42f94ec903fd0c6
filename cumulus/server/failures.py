"""How often one address may show nothing that is valid, and what the log says of it."""

from __future__ import annotations

from typing import Any

from cumulus.errors import TooManyRequests, Unauthenticated
from cumulus.server.rates import Rates

FAILURES_A_SECOND, FAILURES_AT_ONCE = 1.0, 20
"""From one address, before it is told to wait."""
TOLD_A_SECOND, TOLD_AT_ONCE = 0.1, 5
"""Lines of the log about one address."""


class Failures:
    """Those of one listener. `what`: how it calls what comes, as "request". Who shows what is valid always passes:
    several users share an address."""

    def __init__(self, log: Any, what: str) -> None:
        self._log = log
        self._what = what
        self._rates = Rates(FAILURES_A_SECOND, FAILURES_AT_ONCE)
        self._told = Rates(TOLD_A_SECOND, TOLD_AT_ONCE)

    def count(self, address: str, error: Unauthenticated) -> None:
        """One more. Raises TooManyRequests where the address showed too much that is not valid."""
        if not self._told.take(address):
            self._log.warning(f"a {self._what} showed nothing that is valid", address=address, error=str(error))
        if wait := self._rates.take(address):
            raise TooManyRequests(f"too many {self._what}s showed nothing that is valid", seconds=wait) from None
