"""Measures whether the leading daemon does its work: the progress of its threads and controllers.

beat (each thread that goes round) --+
loops.stalled (keys that wait) ------+-> look -> what is wrong: the log, systemd, the leader's Lease
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import structlog

from cumulus.clock import Clock, timestamp

log = structlog.get_logger("cumulus.controllers")

PARTS = {
    "informer": "changes of objects have not been seen",
    "election": "the leadership has not been renewed",
    "events": "events have not been written",
}
"""The threads that go round all the time, and what it means where one does not. "events" does so while it leads."""


class Liveness:
    """Any thread may beat and look: one that hangs is told of by the others."""

    def __init__(self, clock: Clock, seconds: float, changed: Callable[[Sequence[str]], None]) -> None:
        """A part that made no progress for so many `seconds` is a problem. `changed` is told all problems when they
        change."""
        self._clock = clock
        self._seconds = seconds
        self._changed = changed
        self._mutex = threading.Lock()
        now = clock.monotonic()
        self._beats = {"informer": now, "election": now}
        self._stalled: Callable[[float], Mapping[str, float]] | None = None
        self._told: dict[str, str] = {}

    def beat(self, part: str) -> None:
        """That part has just done its round."""
        self._beats[part] = self._clock.monotonic()

    @contextmanager
    def watching(self, stalled: Callable[[float], Mapping[str, float]]) -> Iterator[None]:
        """Look also at the controllers of a term: `stalled` tells those that make no progress, and for how long."""
        self.beat("events")
        self._stalled = stalled
        try:
            yield
        finally:
            self._stalled = None
            self._beats.pop("events", None)

    def look(self) -> Sequence[str]:
        """What is wrong now, a sentence each, the same as long as it goes on."""
        with self._mutex:
            found = {name: self._told.get(name) or self._sentence(name, since) for name, since in self._silent()}
            if found.keys() == self._told.keys():
                return tuple(found.values())
            for name in self._told.keys() - found.keys():
                log.info("makes progress again", part=name)
            for name in found.keys() - self._told.keys():
                log.error("makes no progress", part=name, problem=found[name])
            self._told = found
            said = tuple(found.values())
            self._changed(said)
            return said

    def _silent(self) -> Iterator[tuple[str, float]]:
        """Each part that makes no progress, and for how long it has been."""
        now = self._clock.monotonic()
        for name, beat in sorted(self._beats.copy().items()):
            if now - beat >= self._seconds:
                yield name, now - beat
        stalled = self._stalled
        yield from () if stalled is None else sorted(stalled(self._seconds).items())

    def _sentence(self, name: str, silent: float) -> str:
        since = timestamp(self._clock.now() - timedelta(seconds=silent))[:19] + "Z"
        what = PARTS.get(name, f"the controller {name} has finished nothing though keys are due")
        return f"{what} since {since}"
