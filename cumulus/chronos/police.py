"""Looks several times a second at what processes hold of the devices, and tells the monitor whose lease is over.

    driver -> DeviceProcesses -> ProcessOwners (whose is it) -> Judge -> Verdict -> monitor -> the ledger, SIGKILL

A thread of the monitor's, so that a driver that hangs keeps no lease waiting for its end. It writes nothing: the
monitor's own thread does, which is the ledger's only writer there.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cumulus.chronos import device_records, policing, policy, records
from cumulus.chronos.contract import Device, Health, Lease
from cumulus.chronos.database import Database
from cumulus.chronos.device_processes import DeviceHeld, DeviceProcesses
from cumulus.chronos.gpu_evidence import in_initial_namespace, shows_device
from cumulus.chronos.lease_processes import LeaseProcesses
from cumulus.chronos.policing import Holding, Judge
from cumulus.chronos.policy import Policy
from cumulus.chronos.process_owners import ProcessOwners
from cumulus.chronos.records import Moment
from cumulus.clock import Clock
from cumulus.errors import ChronosError
from cumulus.lib.processes import Identity, read
from cumulus.resources.enforcement import Overuse
from cumulus.resources.reasons import EnforcementReason, NodeCondition

OTHERS_SECONDS = 1.0
"""How often devices are looked at on which no lease lives, while one does on another: its job may have gone there."""

_BOOKS_SECONDS = 3.0
"""Drivers list a process for a second or so after its end. One that is listed for longer and is not there is in another
PID namespace, and nobody here can say whose it is."""

_IDLE_SECONDS = 10.0
_TELL_ANEW = 1.1
"""A lease that holds more than it did when it was told last, by this factor, is told again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one look. `held`: what each lease holds that is over, for long enough; `end`: those of them to be ended now;
    `judged`: all leases of which that is known."""

    held: Mapping[str, int] = field(default_factory=dict)
    end: frozenset[str] = frozenset()
    judged: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Known:
    """What the ledger says, as of `version`."""

    version: int | None = None
    leases: Sequence[Lease] = ()
    devices: Mapping[str, Device] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)


class Police:
    """`start` begins to look, `step` is one look. Read by another thread: `verdict`, `health` and `of`."""

    def __init__(
        self, database: Database, clock: Clock, wake: Callable[[], None], reader: DeviceProcesses | None = None
    ) -> None:
        """`wake` is called where a verdict is not what it was."""
        self._database = database
        self._clock = clock
        self._wake = wake
        self._reader = reader or DeviceProcesses(clock)
        self._owners = ProcessOwners(database.home)
        self._judge = Judge()
        self._known = _Known()
        self._trusting = in_initial_namespace()
        self._looked: dict[str, DeviceHeld] = {}
        self._others_at = float("-inf")
        self._busy_at = float("-inf")
        self._strange: dict[tuple[str, int], float] = {}
        self._astray: frozenset[str] = frozenset()
        """Devices where processes of a lease were seen that has nothing of them."""
        self._members: Mapping[str, frozenset[Identity]] = {}
        self._stop = threading.Event()
        self.verdict = Verdict()
        self.health: tuple[Health, ...] = ()

    def start(self) -> None:
        threading.Thread(target=self._run, name="police", daemon=True).start()

    def close(self) -> None:
        self._stop.set()
        self._reader.close()

    def of(self, lease: str) -> tuple[Identity, ...]:
        """The lease's processes that were seen to hold a device, wherever they have gone since."""
        return tuple(self._members.get(lease, ()))

    def step(self) -> None:
        """One look, if any lease lives. Raises `LedgerUnavailable`."""
        now = self._clock.monotonic()
        self._learn()
        leased = {lease.device_id for lease in self._known.leases} & self._known.devices.keys()
        if not leased:
            self._rest(now)
            return
        self._busy_at = now
        wanted = leased | self._astray
        if now - self._others_at >= OTHERS_SECONDS:
            self._others_at = now
            wanted |= self._known.devices.keys()
        found = self._reader.look(sorted(wanted))
        if found is None:
            self.health = (_condition(False, EnforcementReason.UNAVAILABLE, "the driver does not answer"),)
            return
        self._looked = {**{id: held for id, held in self._looked.items() if id not in wanted}, **found}
        self._decide(leased, now)

    def _run(self) -> None:
        while not self._stop.wait(policing.LOOK_SECONDS):
            try:
                self.step()
            except (ChronosError, sqlite3.Error, OSError):
                # The monitor's own look at the ledger says what is wrong with it.
                continue

    def _rest(self, now: float) -> None:
        self.verdict = Verdict()
        self._members, self._astray = {}, frozenset()
        if now - self._busy_at > _IDLE_SECONDS:
            self._reader.close()

    def _learn(self) -> None:
        version = self._database.version()
        if version is not None and version == self._known.version:
            return
        version = self._database.version()
        with self._database.read() as db:
            leases = records.leases(db, Moment.read(self._clock), records.LIVE)
            devices = {d.id: d for d in device_records.devices(db) if d.type == "gpu"}
            rule = policy.read(db)
            processes = [LeaseProcesses.load(db, lease.id) for lease in leases]
        self._known = _Known(version, leases, devices, rule)
        self._owners.learn(processes)

    def _decide(self, leased: set[str], now: float) -> None:
        holdings: dict[str, Holding] = {}
        members: dict[str, set[Identity]] = {}
        blind: list[str] = []
        silent = sorted(leased - self._looked.keys())
        astray: dict[str, set[str]] = {}
        mapped = {id: self._map(id, held, members, now) for id, held in self._looked.items() if not held.lost}
        for id, by_lease in mapped.items():
            here = {lease.id: lease.memory_bytes for lease in self._known.leases if lease.device_id == id}
            if by_lease is None:
                blind.append(id)
                holdings |= policing.by_total(here, self._looked[id].used_bytes, here)
                continue
            for lease_id, size in here.items():
                bytes_, count = by_lease.get(lease_id, (0, 0))
                holdings[lease_id] = Holding(size, bytes_, count)
            for lease_id in by_lease.keys() - here.keys():
                astray.setdefault(lease_id, set()).add(id)
        for lease_id, devices in astray.items():
            if lease_id in holdings:
                known = holdings[lease_id]
                elsewhere = sum((mapped[id] or {}).get(lease_id, (0, 0))[0] for id in devices)
                holdings[lease_id] = Holding(known.leased_bytes, known.held_bytes, known.processes, elsewhere)
        self._astray = frozenset(id for devices in astray.values() for id in devices)
        self._members = {id: frozenset(found) for id, found in members.items()}
        self._announce(self._judge.look(holdings, now), frozenset(holdings))
        self.health = (self._condition(blind, silent),)

    def _map(
        self, device: str, held: DeviceHeld, members: dict[str, set[Identity]], now: float
    ) -> dict[str, tuple[int, int]] | None:
        """Bytes and processes by lease. None where some process cannot be told apart."""
        found: dict[str, tuple[int, int]] = {}
        strange: set[int] = set()
        for pid, size in held.processes.items():
            owners = self._owner(pid)
            if owners is None:
                strange.add(pid)
                continue
            for lease in self._meant(owners, device):
                bytes_, count = found.get(lease, (0, 0))
                found[lease] = bytes_ + size, count + 1
                if proc := read(pid):
                    members.setdefault(lease, set()).add(Identity(pid, proc.start))
        self._strange = {key: since for key, since in self._strange.items() if key[0] != device or key[1] in strange}
        for pid in strange:
            self._strange.setdefault((device, pid), now)
        foreign = any(now - self._strange[device, pid] > _BOOKS_SECONDS for pid in strange)
        return None if foreign or held.untold else found

    def _owner(self, pid: int) -> frozenset[str] | None:
        """The leases of a process. None where there is none of that number, or it may be another one's here."""
        if not self._trusting and not shows_device(pid):
            return None
        return self._owners.of(pid)

    def _meant(self, owners: frozenset[str], device: str) -> Sequence[str]:
        """Of the leases that a process runs in, those of that device; else one of them, which it has left behind."""
        here = {lease.id for lease in self._known.leases if lease.device_id == device}
        return sorted(owners & here) or sorted(owners)[:1]

    def _announce(self, over: Mapping[str, int], judged: frozenset[str]) -> None:
        by_id = {lease.id: lease for lease in self._known.leases}
        end = frozenset(id for id in over if self._rule(by_id[id]) is Overuse.END)
        before = self.verdict
        held = {
            id: size if size > _TELL_ANEW * before.held.get(id, 0) else max(before.held[id], 1)
            for id, size in over.items()
        }
        self.verdict = Verdict(held, end, judged)
        if (held, end) != (before.held, before.end):
            self._wake()

    def _rule(self, lease: Lease) -> Overuse:
        """What was said at the grant, or what its node does by now, whichever is stricter."""
        floor = self._known.policy.overuse
        return Overuse.END if Overuse.END in (lease.overuse, floor) else Overuse.REPORT

    def _condition(self, blind: Sequence[str], silent: Sequence[str]) -> Health:
        if silent:
            named = ", ".join(self._named(id) for id in silent)
            text = f"no driver tells what processes hold of {named}: overuse there is not seen"
            return _condition(False, EnforcementReason.UNAVAILABLE, text)
        if blind:
            named = ", ".join(self._named(id) for id in sorted(blind))
            text = (
                f"the driver's processes cannot be told apart on {named}: its total is policed, and nobody is ended "
                "where several leases share it"
            )
            return _condition(True, EnforcementReason.BY_DEVICE, text)
        return _condition(True, EnforcementReason.BY_PROCESS, "what each process holds is told by the driver")

    def _named(self, id: str) -> str:
        device = self._known.devices.get(id)
        return id if device is None else f"device {device.index} ({device.name})"


def _condition(status: bool, reason: EnforcementReason, message: str) -> Health:
    return Health(NodeCondition.POLICED, status, reason, message)
