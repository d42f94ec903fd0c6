"""Probes what holds jobs to their leases every few seconds, restarts what is down, and records it in the ledger.

monitor -> HealthProber -> enforce.health (probes and restarts) -> ledger -> the node's conditions
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cumulus.chronos import device_records, enforce
from cumulus.chronos.contract import Device, Health
from cumulus.chronos.database import Database
from cumulus.clock import Clock
from cumulus.resources.reasons import EnforcementReason

LOOK_SECONDS = 5.0
SHOWN_SECONDS = 60.0
"""For so long a condition says that something was mended, so that whoever asks now and then learns of it."""

_MENDED = EnforcementReason.RESTARTED

Look = Callable[[Sequence[Device], Path], Sequence[Health]]


class HealthProber:
    """Looks in a thread, since a driver's daemon that is stuck may take seconds to say nothing."""

    def __init__(self, home: Path, clock: Clock, say: Callable[[str], None], look: Look = enforce.health) -> None:
        """`say` writes a line to the log."""
        self._database = Database(home)
        self._clock = clock
        self._say = say
        self._look = look
        self._thread = ThreadPoolExecutor(1, "health")
        self._looking: Future[None] | None = None
        self._next = 0.0
        self._mended: dict[str, tuple[float, Health]] = {}

    def look(self) -> None:
        """Begin a look, where one is due and leases are live or something was not well. Raises what the last did."""
        if self._looking is not None:
            if not self._looking.done():
                return
            last, self._looking = self._looking, None
            last.result()
        if self._clock.monotonic() >= self._next:
            self._next = self._clock.monotonic() + LOOK_SECONDS
            self._looking = self._thread.submit(self._look_now)

    def _look_now(self) -> None:
        with self._database.read() as db:
            known = device_records.health(db, device_records.ENFORCEMENT)
            devices = device_records.devices(db)
        if self._database.idle() and all(condition.status and condition.reason != _MENDED for condition in known):
            return
        found = tuple(map(self._still_shown, self._look(devices, self._database.home)))
        if found == known:
            return
        for condition in found:
            if condition not in known:
                self._say(f"{condition.type} {condition.status}, {condition.reason}: {condition.message}")
        with self._database.write(durable=False) as tx:
            device_records.record_health(tx, found)

    def _still_shown(self, found: Health) -> Health:
        now = self._clock.monotonic()
        if found.reason == _MENDED:
            self._mended[found.type] = now, found
        since, mended = self._mended.get(found.type, (now - SHOWN_SECONDS, found))
        return mended if found.status and now - since < SHOWN_SECONDS else found
