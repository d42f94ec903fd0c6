"""Finds the leases that are to be parked or brought back, each carried on by a thread, and looks after what is parked.

A thread of the monitor's, with a connection to the ledger of its own: it waits for the disk and for the driver, while
other leases end on time. What it must remember is in the ledger.
"""

from __future__ import annotations

import sqlite3
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence

from cumulus.chronos import device_records, records
from cumulus.chronos.contract import Lease
from cumulus.chronos.database import Database
from cumulus.chronos.device_processes import DeviceProcesses
from cumulus.chronos.lease_processes import LeaseProcesses
from cumulus.chronos.parking import rows
from cumulus.chronos.parking.checkpoint_client import CheckpointClient, DriverSilent
from cumulus.chronos.parking.mover import Means, Mover
from cumulus.chronos.parking.rows import ParkingRow
from cumulus.chronos.parking.steps import ParkingStep
from cumulus.chronos.process_owners import ProcessOwners
from cumulus.chronos.records import Moment
from cumulus.clock import Clock
from cumulus.errors import ChronosError
from cumulus.lib.backoff import Backoff
from cumulus.lib.processes import ProcessIdentity, is_alive, living

LOOK_SECONDS = 0.25
"""How often the ledger is looked at, and the GPUs of parked leases are."""

_IDLE_SECONDS = 1.0
"""The same where there is no GPU."""
RETURNS = 3
"""A process that comes to the GPU of a parked lease more often than that is killed."""
_AT_ONCE = 4
"""Leases that are moved at the same time."""
_AGAIN = Backoff(first=1.0, longest=30.0)


class Parker:
    """`start` begins to look, `step` is one look."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        say: Callable[[str], None] = lambda text: None,
        *,
        wake: Callable[[], None] = lambda: None,
        means: Means | None = None,
        threads: bool = True,
    ) -> None:
        """`wake` is called where something may be for the monitor to do. Without `threads` a look carries on, one after
        the other, what it finds."""
        self._database = database
        self._clock = clock
        self._say = say
        self._wake = wake
        self._means = means or Means(CheckpointClient, lambda: DeviceProcesses(clock))
        self._threads = threads
        self._owners = ProcessOwners(database.home)
        self._reader: DeviceProcesses | None = None
        self._version: int | None = None
        self._rows: Sequence[ParkingRow] = ()
        self._parked: Sequence[Lease] = ()
        self._has_gpu = False
        self._busy: set[str] = set()
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._seen: set[str] = set()
        """Parked leases whose processes were asked how far they are: those of an earlier monitor may be anywhere."""
        self._returns: dict[str, Counter[ProcessIdentity]] = {}
        """By parked lease: how often each of its processes was found on the GPU. A program may restore itself."""
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="parker", daemon=True).start()

    def close(self) -> None:
        self._stop.set()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def step(self) -> None:
        """Raises `LedgerUnavailable`."""
        self._learn()
        now = self._clock.monotonic()
        for row in self._rows:
            if row.step is ParkingStep.PARKED or row.lease in self._busy or self._not_before.get(row.lease, 0.0) > now:
                continue
            if len(self._busy) >= _AT_ONCE:
                break
            self._begin(row.lease, Mover.carry_on)
        self._look_after()

    def _learn(self) -> None:
        version = self._database.version()
        if version is not None and version == self._version:
            return
        with self._database.read() as db:
            self._rows = rows.unfinished(db)
            parked = {row.lease for row in self._rows if row.step is ParkingStep.PARKED}
            live = records.leases(db, Moment.read(self._clock), records.LIVE) if parked else []
            processes = [LeaseProcesses.load(db, lease.id) for lease in live]
            self._has_gpu = any(device.type == "gpu" for device in device_records.devices(db))
        self._version = version
        self._parked = [lease for lease in live if lease.id in parked]
        self._seen &= parked
        self._returns = {id: self._returns.get(id, Counter()) for id in parked}
        self._owners.learn(processes)

    def _look_after(self) -> None:
        """What of parked leases has come to their GPUs, and what of their main memory is free."""
        if not self._parked:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
            return
        self._reader = self._reader or self._means.reader()
        held = self._reader.look(sorted({lease.device_id for lease in self._parked})) or {}
        for lease in self._parked:
            if lease.id in self._busy or self._not_before.get(lease.id, 0.0) > self._clock.monotonic():
                continue
            listed = held[lease.device_id].processes if lease.device_id in held else {}
            came = {pid for pid, size in listed.items() if size and lease.id in (self._owners.of(pid) or ())}
            if came or lease.id not in self._seen:
                self._begin(lease.id, self._taking_in(came))
            elif self._someone_is_gone(lease.id):
                self._begin(lease.id, _count)

    def _taking_in(self, came: set[int]) -> Callable[[Mover, str], bool]:
        def take_in(mover: Mover, id: str) -> bool:
            returns = self._returns.get(id, Counter())
            stubborn = [who for who, times in returns.items() if times >= RETURNS]
            returns.update(mover.take_in(id, living(came) | mover.not_parked(id), stubborn))
            mover.count(id)
            self._seen.add(id)
            return True

        return take_in

    def _someone_is_gone(self, id: str) -> bool:
        with self._database.read() as db:
            known = rows.processes(db, id)
        return any(not is_alive(each.process) for each in known)

    def _begin(self, id: str, what: Callable[[Mover, str], bool]) -> None:
        self._busy.add(id)
        if not self._threads:
            self._carry_on(id, what)
        else:
            threading.Thread(target=self._carry_on, args=(id, what), name=f"parking {id}", daemon=True).start()

    def _carry_on(self, id: str, what: Callable[[Mover, str], bool]) -> None:
        mover = Mover(self._database, self._clock, self._means, self._say)
        try:
            done = what(mover, id)
        except (ChronosError, sqlite3.Error, OSError, DriverSilent) as error:
            self._say(f"parking of lease {id}: {error}")
            done = False
        except Exception:
            # A defect: it must not keep the others from being brought back, and not be silent.
            self._say(traceback.format_exc())
            done = False
        finally:
            mover.close()
            self._busy.discard(id)
        if done:
            self._failures.pop(id, None)
        else:
            failures = self._failures[id] = self._failures.get(id, 0) + 1
            self._not_before[id] = self._clock.monotonic() + _AGAIN.seconds(failures - 1)
        self._wake()

    def _run(self) -> None:
        said = ""
        while not self._stop.wait(LOOK_SECONDS if self._has_gpu else _IDLE_SECONDS):
            try:
                self.step()
                said = ""
            except Exception as error:
                text = str(error) if isinstance(error, ChronosError | OSError) else traceback.format_exc()
                if text != said:
                    self._say(text)
                said = text


def _count(mover: Mover, id: str) -> bool:
    mover.count(id)
    return True
