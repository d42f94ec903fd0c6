"""Which devices the ledger offers: asks the drivers when needed, and records their answers.

drivers -> device.discover -> Inventory -> the ledger's rows of devices -> those that are offered
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cumulus.chronos import device_records
from cumulus.chronos.contract import Device
from cumulus.chronos.database import Database
from cumulus.chronos.records import Moment
from cumulus.chronos.settings import LocalSettings
from cumulus.clock import Clock

_ENFORCEMENT_SECONDS = 30.0
"""For so long what is known of a device's enforcement holds: asking runs programs of the driver."""

_SIZES_SECONDS = 3600.0
"""For so long what drivers said of sizes holds."""


class Inventory:
    """The devices of one ledger. `boot` names the machine's boot; `discover` asks the drivers."""

    def __init__(self, database: Database, clock: Clock, discover: Callable[[], Sequence[Device]], boot: str) -> None:
        self._database = database
        self._clock = clock
        self._discover = discover
        self._boot = boot

    def devices(self, *, measure: bool) -> Sequence[Device]:
        """Those that are offered. `measure`: drivers may be asked for sizes alone, where that is due."""
        found = self.known()
        with self._database.read() as db:
            fresh = device_records.discovered(db, self._boot)
            measured = device_records.sizes_age(db, Moment.read(self._clock))
        if not found or not fresh:
            found = self.rediscover()
        elif measured > _SIZES_SECONDS and measure:
            self.measure()
            found = self.known()
        with self._database.read() as db:
            age = device_records.enforcement_age(db, Moment.read(self._clock))
        if age <= _ENFORCEMENT_SECONDS:
            return found
        self._record_enforcement(found)
        return self.known()

    def rediscover(self) -> Sequence[Device]:
        """See `Ledger.rediscover`."""
        found = self._discover()
        with self._database.write() as tx:
            device_records.record_devices(tx, found, self._boot, Moment.read(self._clock))
        self._record_enforcement(self.known())
        return self.known()

    def measure(self) -> None:
        """See `Ledger.measure`."""
        with self._database.write(durable=False) as tx:
            # At first, so that others do not ask at the same time.
            device_records.remember_sizes(tx, Moment.read(self._clock))
        found = self._discover()
        with self._database.write() as tx:
            device_records.record_sizes(tx, found, Moment.read(self._clock))

    def known(self) -> Sequence[Device]:
        """Those that are offered, as they are recorded: no driver is asked."""
        with self._database.read() as db:
            return offered(device_records.devices(db))

    def _record_enforcement(self, devices: Sequence[Device]) -> None:
        """How strongly jobs are held to their leases on each."""
        from cumulus.chronos import enforce

        found = {device.id: enforce.strength(device, self._database.home).enforcement for device in devices}
        with self._database.write() as tx:
            device_records.record_enforcement(tx, found, Moment.read(self._clock))


def offered(present: Sequence[Device]) -> list[Device]:
    """A CPU is offered only where no GPU is present, or where CHRONOS_OFFER_CPU=1 asks for it."""
    everything = LocalSettings.read().offer_cpu or not any(d.type == "gpu" for d in present)
    return [d for d in present if everything or d.type != "cpu"]
