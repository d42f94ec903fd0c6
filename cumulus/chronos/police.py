"""Looks several times a second at what processes hold of the devices, and tells the monitor whose lease is over.

    driver -> DeviceProcesses -> ProcessOwners (whose is it) -> Judge -> Verdict -> monitor -> the ledger, SIGKILL

A thread of the monitor's, so that a driver that hangs keeps no lease waiting for its end. It writes nothing: the
monitor's own thread does, which is the ledger's only writer there.
"""

from __future__ import annotations

import signal
import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cumulus.chronos import device_records, node_watch, policing, policy, records, xid
from cumulus.chronos.contract import Device, Health, Lease, LeaseState
from cumulus.chronos.contract.policy import Policy
from cumulus.chronos.database import Database
from cumulus.chronos.device_processes import DeviceHeld, DeviceProcesses
from cumulus.chronos.gpu_evidence import in_initial_namespace, shows_device
from cumulus.chronos.lease_processes import LeaseProcesses
from cumulus.chronos.node_watch import NodeFindings
from cumulus.chronos.policing import Judge, MeasuredHolding
from cumulus.chronos.process_owners import ProcessOwners
from cumulus.chronos.records import Moment
from cumulus.chronos.unleased import (
    KILL_SECONDS,
    NOTICE_SECONDS,
    TOLD_SECONDS,
    UnleasedProcesses,
    describe,
    is_ours,
    may_end,
    told,
)
from cumulus.clock import Clock
from cumulus.errors import ChronosError
from cumulus.lib.processes import ProcessIdentity, is_alive, is_gone, read, send
from cumulus.resources.enforcement import Overuse, Unleased
from cumulus.resources.reasons import EnforcementReason, NodeCondition

SURVEY_SECONDS = 5.0
"""How often all devices are looked at for figures, faults and processes without a lease, while a lease lives; half as
often while none does and somebody asks."""

WATCHED_SECONDS = 30.0
"""For so long after somebody asked."""

OTHERS_SECONDS = 0.5
"""How often devices are looked at on which no lease lives, while one does on another: its job may have gone there."""

_BOOKS_SECONDS = 3.0
"""Drivers list a process for a second or so after its end. One that is listed for longer and is not there is in another
PID namespace, and nobody here can say whose it is; where all processes are seen, it has left its memory to others."""

_IDLE_SECONDS = 10.0
_NO_GPU_SECONDS = 1.0
"""How often a node without a GPU is looked at for one."""
_NAMED = 5
"""Processes without a lease that a condition names."""
_TELL_ANEW = 1.1
"""A lease that holds more than it did when it was told last, by this factor, is told again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one look. `held`: what each lease holds that is over, for long enough; `end`: those of them to be ended now;
    `judged`: all leases of which that is known."""

    held: Mapping[str, int] = field(default_factory=dict)
    end: frozenset[str] = frozenset()
    judged: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    """Leases of devices that have failed."""


@dataclass(slots=True)
class _Known:
    """What the ledger says, as of `version`."""

    version: int | None = None
    leases: Sequence[Lease] = ()
    devices: Mapping[str, Device] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    faults: Mapping[str, str] = field(default_factory=dict)
    cleared: float = 0.0


class Police:
    """`start` begins to look, `step` is one look. Read by another thread: `verdict`, `health`, `faults`, `seen` and
    `of`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        wake: Callable[[], None],
        say: Callable[[str], None] = lambda text: None,
        reader: DeviceProcesses | None = None,
    ) -> None:
        """`wake` is called where a verdict is not what it was; `say` writes a line to the log."""
        self._database = database
        self._clock = clock
        self._wake = wake
        self._say = say
        self._reader = reader or DeviceProcesses(clock)
        self._owners = ProcessOwners(database.home)
        self._judge = Judge()
        self._known = _Known()
        self._trusting = in_initial_namespace()
        self._looked: dict[str, DeviceHeld] = {}
        self._others_at = float("-inf")
        self._busy_at = float("-inf")
        self._strange: dict[tuple[str, int], float] = {}
        self._listed: dict[tuple[str, int], tuple[ProcessIdentity, Sequence[str]]] = {}
        """Who it was that each device's driver lists, and in which leases, for as long as it does."""
        self._astray: frozenset[str] = frozenset()
        """Devices where processes of a lease were seen that has nothing of them."""
        self._members: Mapping[str, frozenset[ProcessIdentity]] = {}
        self._stray: dict[tuple[str, ProcessIdentity], int] = {}
        """What processes without a lease held of each device when it was looked at last."""
        self._unleased = UnleasedProcesses()
        self._told_to_end: dict[ProcessIdentity, float] = {}
        self._lost_since: dict[str, float] = {}
        self._survey_at = float("-inf")
        self._watched_at = float("-inf")
        self._condition = _condition(True, EnforcementReason.BY_PROCESS, "")
        self._stop = threading.Event()
        self.verdict = Verdict()
        self.health: tuple[Health, ...] = ()
        self.faults: dict[str, str] = {}
        """Of devices that were found to have failed, by id: since this began to look."""
        self.seen = NodeFindings()

    def start(self) -> None:
        threading.Thread(target=self._run, name="police", daemon=True).start()

    def close(self) -> None:
        self._stop.set()
        self._reader.close()

    def of(self, lease: str) -> tuple[ProcessIdentity, ...]:
        """The lease's processes that were seen to hold a device, wherever they have gone since."""
        return tuple(self._members.get(lease, ()))

    def watched(self) -> None:
        """Somebody asks how the devices are: they are looked at for a while also where no lease lives."""
        self._watched_at = self._clock.monotonic()

    def step(self) -> None:
        """One look, if any lease lives, or a look around is due. Raises `LedgerUnavailable`."""
        now = self._clock.monotonic()
        self._learn()
        gpus = self._known.devices.keys()
        leased = {lease.device_id for lease in self._known.leases} & gpus
        wanted_by_somebody = bool(leased) or now - self._watched_at < WATCHED_SECONDS
        survey = bool(gpus) and wanted_by_somebody and now >= self._survey_at
        if not leased and not survey:
            self._rest(now)
            return
        self._busy_at = now
        wanted = leased | self._astray
        if survey or now - self._others_at >= OTHERS_SECONDS:
            self._others_at = now
            wanted |= gpus
        found = self._reader.look(sorted(wanted))
        if found is None:
            self.health = (_condition(False, EnforcementReason.UNAVAILABLE, "the driver does not answer"),)
            return
        self._looked = {**{id: held for id, held in self._looked.items() if id not in wanted}, **found}
        self._decide(leased, wanted, now)
        if survey:
            self._survey_at = now + (SURVEY_SECONDS if leased else 2 * SURVEY_SECONDS)
            self._survey(now)
        self.health = (self._condition, *self._conditions())

    def _run(self) -> None:
        said = ""
        pause = policing.LOOK_SECONDS
        while not self._stop.wait(pause):
            try:
                self.step()
                said = ""
            except (ChronosError, sqlite3.Error, OSError) as error:
                # The monitor's own look at the ledger says what is wrong with it.
                said = str(error)
            except Exception:
                # A defect: it must not leave all leases unwatched for ever, and not be silent.
                text = traceback.format_exc()
                if text != said:
                    self._say(text)
                said = text
                self.health = (_condition(False, EnforcementReason.UNAVAILABLE, "looking at the devices failed"),)
            pause = policing.LOOK_SECONDS if self._known.devices else _NO_GPU_SECONDS

    def _rest(self, now: float) -> None:
        self.verdict = Verdict()
        self._members, self._astray = {}, frozenset()
        if now - max(self._busy_at, self._watched_at) > _IDLE_SECONDS:
            self._reader.close()

    def _learn(self) -> None:
        version = self._database.version()
        if version is not None and version == self._known.version:
            return
        with self._database.read() as db:
            devices = {d.id: d for d in device_records.devices(db) if d.type == "gpu"}
            live = records.leases(db, Moment.read(self._clock), records.LIVE) if devices else []
            leases = [lease for lease in live if lease.device_id in devices]
            rule, faults, cleared = policy.read(db), node_watch.faults(db), node_watch.cleared(db)
            processes = [LeaseProcesses.load(db, lease.id) for lease in leases]
        if cleared != self._known.cleared:
            self.faults.clear()
            self._lost_since.clear()
        self._known = _Known(version, leases, devices, rule, faults, cleared)
        self._owners.learn(processes)

    def _decide(self, leased: set[str], looked: Iterable[str], now: float) -> None:
        holdings: dict[str, MeasuredHolding] = {}
        members: dict[str, set[ProcessIdentity]] = {}
        blind: list[str] = []
        silent = sorted(leased - self._looked.keys())
        astray: dict[str, set[str]] = {}
        self._stray.clear()
        mapped = {id: self._map(id, held, members, now) for id, held in self._looked.items() if not held.lost}
        self._unleased.look(self._stray, looked, now)
        self._end_unleased(now)
        self._note_lost(now)
        for id, by_lease in mapped.items():
            here = self._sizes(id)
            if by_lease is None:
                blind.append(id)
                # What processes without a lease hold is no lease's.
                stray_bytes = sum(size for (device, _), size in self._stray.items() if device == id)
                holdings |= policing.by_total(here, max(0, self._looked[id].used_bytes - stray_bytes))
                continue
            for lease_id, size in here.items():
                bytes_, count = by_lease.get(lease_id, (0, 0))
                holdings[lease_id] = MeasuredHolding(size, bytes_, count)
            for lease_id in by_lease.keys() - here.keys():
                astray.setdefault(lease_id, set()).add(id)
        for lease_id, devices in astray.items():
            if lease_id in holdings:
                known = holdings[lease_id]
                elsewhere = sum((mapped[id] or {}).get(lease_id, (0, 0))[0] for id in devices)
                holdings[lease_id] = MeasuredHolding(known.leased_bytes, known.held_bytes, known.processes, elsewhere)
        self._astray = frozenset(id for devices in astray.values() for id in devices)
        self._members = {id: frozenset(found) for id, found in members.items()}
        self._announce(self._judge.look(holdings, now), frozenset(holdings))
        self._condition = self._how_policed(blind, silent)

    def _map(
        self, device: str, held: DeviceHeld, members: dict[str, set[ProcessIdentity]], now: float
    ) -> dict[str, tuple[int, int]] | None:
        """Bytes and processes by lease. None where some process cannot be told apart."""
        strange: set[int] = set()
        holders: list[tuple[int, Sequence[str]]] = []
        self._listed = {
            key: known for key, known in self._listed.items() if key[0] != device or key[1] in held.processes
        }
        for pid, size in held.processes.items():
            who = self._holder(device, pid)
            owners = self._owner(pid) if who is not None else None
            if who is None or owners is None or not is_alive(who):
                strange.add(pid)
                continue
            if not owners and not is_ours(who):
                self._stray[device, who] = size
            leases = self._meant(owners, device)
            holders.append((size, leases))
            self._listed[device, pid] = who, leases
            for lease in leases:
                members.setdefault(lease, set()).add(who)
        self._strange = {key: since for key, since in self._strange.items() if key[0] != device or key[1] in strange}
        for pid in strange:
            self._strange.setdefault((device, pid), now)
        foreign = False
        for pid in strange:
            if now - self._strange[device, pid] <= _BOOKS_SECONDS:
                continue
            known = self._listed.get((device, pid))
            if known is None and not (self._trusting and is_gone(pid)):
                foreign = True
            elif known is not None:
                # It has ended, and whoever has its device files open keeps its memory: a child that it forked, say.
                live = {lease.id for lease in self._known.leases}
                holders.append((held.processes[pid], [id for id in known[1] if id in live]))
        return None if foreign or held.untold else policing.by_lease(holders, self._sizes(device))

    def _holder(self, device: str, pid: int) -> ProcessIdentity | None:
        """Who it is. None where there is none of that number, or one that got it after the driver listed it."""
        proc, known = read(pid), self._listed.get((device, pid))
        if proc is None:
            return None
        another = known is not None and known[0].start != proc.start
        return None if another and not shows_device(pid) else ProcessIdentity(pid, proc.start)

    def _owner(self, pid: int) -> frozenset[str] | None:
        """The leases of a process. None where there is none of that number, or it may be another one's here."""
        if not self._trusting and not shows_device(pid):
            return None
        return self._owners.of(pid)

    def _meant(self, owners: frozenset[str], device: str) -> Sequence[str]:
        """Of the leases that a process runs in, those of that device; else one of them, which it has left behind."""
        return sorted(owners & self._sizes(device).keys()) or sorted(owners)[:1]

    def _sizes(self, device: str) -> dict[str, int]:
        """The device's leases, with what they lease of it. What is parked has nothing there: `Parker` sees to that."""
        return {
            lease.id: lease.memory_bytes
            for lease in self._known.leases
            if lease.device_id == device and lease.state is not LeaseState.PARKED
        }

    def _announce(self, over: Mapping[str, int], judged: frozenset[str]) -> None:
        by_id = {lease.id: lease for lease in self._known.leases}
        end = frozenset(id for id in over if self._rule(by_id[id]) is Overuse.END)
        before = self.verdict
        held = {
            id: size if size > _TELL_ANEW * before.held.get(id, 0) else max(before.held[id], 1)
            for id, size in over.items()
        }
        failed = {**self._known.faults, **self.faults}
        lost = frozenset(
            lease.id
            for lease in self._known.leases
            # One that is parked waits: the device may be mended.
            if lease.device_id in failed and lease.state is not LeaseState.PARKED
        )
        self.verdict = Verdict(held, end, judged, lost)
        if (held, end, lost) != (before.held, before.end, before.lost):
            self._wake()

    def _note_lost(self, now: float) -> None:
        """A device that its driver says is gone, twice in a row: it has failed."""
        lost = {id for id, held in self._looked.items() if held.lost}
        self._lost_since = {id: self._lost_since.get(id, now) for id in lost}
        for id, since in self._lost_since.items():
            if now - since >= policing.CONFIRM_SECONDS:
                self.faults.setdefault(id, xid.fault(xid.OFF_THE_BUS))

    def _survey(self, now: float) -> None:
        """How all devices are, and who holds them without a lease."""
        figures = self._reader.figures(sorted(self._known.devices), self._known.cleared)
        if figures is None:
            return
        for id, found in figures.items():
            errors = found.ecc_uncorrected or 0
            text = found.fault or (f"{errors} uncorrectable memory errors (ECC)" if errors else "")
            if text and (not found.fault.endswith(xid.FATAL[xid.OFF_THE_BUS]) or id in self._lost_since):
                self.faults.setdefault(id, text)
        held = {key: self._stray[key] for key in self._unleased.for_so_long(TOLD_SECONDS, now) & self._stray.keys()}
        ignored = self._known.policy.unleased is Unleased.IGNORE
        self.seen = NodeFindings(figures, () if ignored else told(held))

    def _end_unleased(self, now: float) -> None:
        """Where the node's rule says so: SIGTERM, and some seconds later SIGKILL."""
        if self._known.policy.unleased is not Unleased.END:
            return
        self._told_to_end = {who: at for who, at in self._told_to_end.items() if is_alive(who)}
        for device, who in self._unleased.for_so_long(NOTICE_SECONDS, now) & self._stray.keys():
            found = describe(device, who, self._stray[device, who])
            # The number may have been another's that left its memory to its children.
            if found is None or not may_end(found, self._known.policy) or not shows_device(who.pid):
                continue
            number = signal.SIGTERM if who not in self._told_to_end else signal.SIGKILL
            if number is signal.SIGKILL and now - self._told_to_end[who] < KILL_SECONDS:
                continue
            if number is signal.SIGTERM:
                self._told_to_end[who] = now
                self._say(f"{found} holds {self._named(device)} without a lease: it is ended")
            with suppress(PermissionError):
                send(who, number)

    def _conditions(self) -> Iterable[Health]:
        failed = {**self._known.faults, **self.faults}
        if failed:
            text = "; ".join(f"{self._named(id)}: {why}" for id, why in sorted(failed.items()))
            yield Health(NodeCondition.DEVICES_HEALTHY, False, EnforcementReason.DEVICE_FAILED, text)
        elif self.seen.figures:
            yield Health(NodeCondition.DEVICES_HEALTHY, True, EnforcementReason.HEALTHY, "no device has failed")
        if self._known.policy.unleased is Unleased.IGNORE:
            return
        if not self.seen.unleased:
            yield Health(NodeCondition.ONLY_LEASED, True, EnforcementReason.ALL_LEASED, "")
            return
        some = [f"{each} on {self._named(each.device_id)}" for each in self.seen.unleased[:_NAMED]]
        more = len(self.seen.unleased) - len(some)
        text = "; ".join(some) + (f"; and {more} more" if more else "")
        yield Health(NodeCondition.ONLY_LEASED, False, EnforcementReason.UNLEASED_PROCESSES, text)

    def _rule(self, lease: Lease) -> Overuse:
        """What was said at the grant, or what its node does by now, whichever is stricter."""
        floor = self._known.policy.overuse
        return Overuse.END if Overuse.END in (lease.overuse, floor) else Overuse.REPORT

    def _how_policed(self, blind: Sequence[str], silent: Sequence[str]) -> Health:
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
