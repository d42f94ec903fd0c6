"""Counts calls, and tells the daemon of them in the log, since its metrics are what Prometheus asks."""

from __future__ import annotations

import asyncio

import structlog

TELL_SECONDS = 5.0
EVENT = "metered"
"""The event of the lines that the daemon takes for its metrics."""
_log = structlog.get_logger("cumulus.grpc")


class Metering:
    """For one event loop."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[float]] = {}

    def note(self, method: str, code: str, seconds: float) -> None:
        """One call that was answered."""
        found = self._counts.setdefault((method, code), [0, 0.0])
        found[0] += 1
        found[1] += seconds

    def take(self) -> list[tuple[str, str, int, float]]:
        """What was noted since the last time."""
        counts, self._counts = self._counts, {}
        return [(method, code, int(calls), round(seconds, 6)) for (method, code), (calls, seconds) in counts.items()]

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(TELL_SECONDS)
            if counts := self.take():
                # An error, so that it comes at every level of the log.
                _log.error(EVENT, counts=counts)
