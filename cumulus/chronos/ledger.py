"""The node's lease authority: who holds which share of which device, and until when.

Every grant and end passes here, from controllers, `chronos_cli`, `Partitioner` and the supervisors of jobs. What is
answered is on the disk. Expiry counts on CLOCK_BOOTTIME, so that setting the wall clock moves no lease's end; the
monitor, a process of its own, carries it out.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cumulus.chronos import checks, device_records, monitor_control, node_watch, policy, records
from cumulus.chronos.contract import (
    FULL_COMPUTE,
    Device,
    EndReason,
    Health,
    Lease,
    LeasedTotal,
    LeaseRequest,
    LeaseState,
    Parking,
)
from cumulus.chronos.contract.parking import expected_seconds
from cumulus.chronos.contract.policy import Policy, PolicyChange
from cumulus.chronos.database import Database
from cumulus.chronos.device import discover
from cumulus.chronos.home import default_home
from cumulus.chronos.inventory import Inventory, offered
from cumulus.chronos.node_watch import NodeFindings
from cumulus.chronos.parking import check, memory, parking_monitor, rows
from cumulus.chronos.parking.steps import ParkingStep
from cumulus.chronos.records import Moment
from cumulus.clock import Clock, SystemClock, timestamp
from cumulus.errors import (
    ChronosError,
    CumulusError,
    InsufficientShare,
    LedgerUnavailable,
    NoSuchLease,
    ParkRefused,
)
from cumulus.lib import cgroup, processes
from cumulus.resources.enforcement import overuse_of
from cumulus.resources.reasons import ParkingReason

_LOOKED = 0.1
"""For so long after a look at the monitor it is taken to run, by whoever makes no new lease."""


class Ledger:
    """`Leases` on this machine's devices, kept in `home` (default: see `home.default_home`).

    Safe between threads, processes and forks. `discover` tells the devices when the ledger needs them first. The
    monitor is started whenever a lease is live and none runs, unless `start_monitor` is False or the clock is not
    the machine's, which the monitor could not follow. `boot` names the machine's boot.
    """

    def __init__(
        self,
        home: Path | None = None,
        clock: Clock | None = None,
        discover: Callable[[], Sequence[Device]] = discover,
        *,
        start_monitor: bool = True,
        boot: str | None = None,
    ) -> None:
        self.database = Database((home or default_home()).absolute())
        self.clock = clock or SystemClock()
        self._start_monitor = start_monitor and isinstance(self.clock, SystemClock)
        self._boot = boot or processes.boot_id()
        self._inventory = Inventory(self.database, self.clock, discover, self._boot)
        self._watcher = monitor_control.MonitorCheck(self.database.home)
        self._settled = 0
        """The generation of the database that `open` has seen to."""
        self._devices_known = False
        self._live: tuple[int, list[tuple[Lease, float]]] | None = None
        """What `list` found, and the version of the ledger it found it in."""

    @property
    def home(self) -> Path:
        return self.database.home

    def open(self) -> None:
        """See that the ledger is open that is there now, and make one where there is none. All other methods do this
        first, except those that say that they make none. What an earlier boot left is carried over, once."""
        generation = self.database.check()
        if self._settled == generation:
            return
        self._devices_known, self._live = False, None
        with self.database.read() as db:
            known = records.boot(db)
        if known != self._boot:
            with self.database.write() as tx:
                records.settle_boot(tx, self._boot, Moment.read(self.clock))
        self._settled = generation

    def devices(self) -> Sequence[Device]:
        """The devices offered, by index. Empty where there is none.

        The drivers are asked once in each boot, and again as long as they know of no device, or by `rediscover`; for
        sizes alone once an hour.
        A CPU device is offered only where no GPU is present, or where CHRONOS_OFFER_CPU=1 asks for it.
        """
        self.open()
        # Not in supervisors, say, which others wait for.
        return self._inventory.devices(measure=self._start_monitor)

    def rediscover(self) -> Sequence[Device]:
        """Ask the drivers again: devices that came are added, those that went are no longer offered."""
        self.open()
        with self.database.write() as tx:
            node_watch.clear_faults(tx, self.clock.monotonic())
        return self._inventory.rediscover()

    def measure(self) -> None:
        """Ask the drivers how large the known devices are, and nothing else: one that does not answer now stays."""
        self.open()
        self._inventory.measure()

    def known(self) -> Sequence[Device]:
        """The devices as they are recorded: no driver is asked."""
        self.open()
        return self._inventory.known()

    def grant(self, request: LeaseRequest) -> Lease:
        """See `Leases.grant`. Raises `UsageError` too, where the request is malformed."""
        [granted] = self.grant_all([request])
        if isinstance(granted, CumulusError):
            raise granted
        return granted

    def grant_all(self, requests: Sequence[LeaseRequest]) -> Sequence[Lease | CumulusError]:
        """For each request, in turn, the lease or what `grant` would raise; all of it is one transaction, synced once.

        Raises what concerns them all: `LedgerUnavailable`."""
        self.open()
        self._watch()
        if not self._devices_known:
            self._devices_known = bool(self.devices())
        with self.database.write() as tx:
            now = Moment.read(self.clock)
            granted = [self._granted(tx, request, now) for request in requests]
        self._watch(poke=any(request.seconds < monitor_control.POLL for request in requests))
        return granted

    def begin(self, id: str) -> Lease | None:
        """See `Leases.begin`. Not synced: where it is lost, so is the program."""
        self.open()
        with self.database.write(durable=False) as tx:
            now = Moment.read(self.clock)
            lease = records.find_lease(tx, id, now)
            if lease is None or lease.state is not LeaseState.ACTIVE:
                return lease
            lease = records.begin(tx, lease, now)
            device = device_records.find_device(tx, lease.device_id)
        self._watch(poke=lease.expires_in < monitor_control.POLL, within=_LOOKED)
        self._hold(lease, device)
        return lease

    def renew(self, id: str, seconds: float, *, token: int | None = None) -> Lease:
        """See `Leases.renew`. With `token`, raises `StaleToken` where it is not the lease's."""
        checks.check_seconds(seconds)
        self.open()
        with self.database.write() as tx:
            now = Moment.read(self.clock)
            lease = _going_on(tx, id, token, now)
            if seconds > lease.expires_in:
                lease = records.extend(tx, lease, seconds, now)
            device = device_records.find_device(tx, lease.device_id)
        self._watch()
        self._hold(lease, device)
        return lease

    def attach(self, id: str, pid: int, token: int, *, role: str = "root") -> None:
        """Register a process of the lease: it and its descendants are ended with the lease.

        `role`: `root`; `supervisor`, whose descendants are ended but not itself; `holder`, a root whose own end
        releases the lease. Raises `NoSuchLease` where the lease is not ACTIVE, `StaleToken`, and `ChronosError`
        where no such process runs.
        """
        found = processes.read(pid)
        if found is None or not found.alive or pid <= 1:
            raise ChronosError(f"process {pid} cannot be attached to lease {id}: no job runs as it")
        self.open()
        # Where that of a supervisor is lost, so are the processes. An earlier boot's holders are asked for in the next.
        with self.database.write(durable=role == "holder") as tx:
            _active(tx, id, token, Moment.read(self.clock))
            tx.execute("INSERT OR REPLACE INTO process VALUES (?, ?, ?, ?)", (id, pid, found.start, role))
            if role == "root" and (directory := cgroup.enclose(pid, cgroup.name(self._cgroup(id), pid, found.start))):
                tx.execute("INSERT OR IGNORE INTO cgroup VALUES (?, ?)", (id, self._recorded(id, directory)))
        self._watch()

    def make_cgroup(self, ids: Sequence[str], supervisor: int) -> str | None:
        """Make a cgroup for the job of a supervisor that is attached to those leases, and that moves the job there.

        All that is in it is ended with any of the leases. None where no cgroup can be made here. Raises `NoSuchLease`
        where one of the leases is not ACTIVE any more.
        """
        found = processes.read(supervisor)
        if found is None:
            raise ChronosError(f"process {supervisor} is gone")
        # Not durable: where it is lost, so are the processes.
        with self.database.write(durable=False) as tx:
            for id in ids:
                _active(tx, id, None, Moment.read(self.clock))
            directory = cgroup.make(cgroup.name(self._cgroup(ids[0]), found.pid, found.start))
            if directory is not None:
                rows = [(id, self._recorded(id, directory)) for id in ids]
                tx.executemany("INSERT OR IGNORE INTO cgroup VALUES (?, ?)", rows)
        return directory

    def detach(self, id: str, pid: int) -> None:
        """Undo `attach`: the process outlives the lease. Harmless where it is not attached."""
        with self.database.write() as tx:
            tx.execute("DELETE FROM process WHERE lease = ? AND pid = ?", (id, pid))

    def prepare(self, id: str) -> Mapping[str, str]:
        """See `Prepares.prepare`."""
        from cumulus.chronos import enforce

        lease = self.get(id)
        if lease is None or lease.state is not LeaseState.ACTIVE:
            raise NoSuchLease(f"there is no active lease {id}")
        device = next((d for d in self.devices() if d.id == lease.device_id), None)
        return {} if device is None else enforce.environment(lease, device, self.home)

    def release(self, id: str, *, token: int | None = None) -> Lease | None:
        """See `Leases.release`. A lease to which no process is attached has ENDED when this returns."""
        self.open()
        with self.database.write() as tx:
            now = Moment.read(self.clock)
            lease = records.find_lease(tx, id, now)
            if lease is None or not lease.state.goes_on:
                return lease
            checks.check_token(lease, token)
            if records.processes_of(tx, id) or rows.processes(tx, id):
                lease = records.begin_end(tx, lease, EndReason.RELEASED, now)
            else:
                lease = records.finish_end(tx, lease, now, EndReason.RELEASED)
        self._watch(poke=lease.state is LeaseState.ENDING, within=_LOOKED)
        return lease

    def park(
        self, id: str, park_for: float, *, freeze: bool = False, token: int | None = None, unproven: bool = False
    ) -> Lease:
        """See `Parks.park`. `unproven`: also where nothing is proven, for the self-test, whose program may be lost."""
        checks.check_seconds(park_for)
        self.open()
        with self.database.write() as tx:
            now = Moment.read(self.clock)
            lease = _going_on(tx, id, token, now)
            if lease.state in (LeaseState.PARKING, LeaseState.PARKED):
                return lease
            if lease.state is LeaseState.UNPARKING:
                raise ParkRefused(
                    f"lease {id} is being brought back", reason=ParkingReason.INTERRUPTED, hint="ask again once it is"
                )
            device = device_records.find_device(tx, lease.device_id)
            limit = memory.limit(policy.read(tx).parking_memory)
            check.check_device(device, rows.proofs(tx), limit, unproven=unproven)
            rows.ask(tx, id, park_for, freeze, unproven, now)
            lease = _going_on(tx, id, None, now)
            records.audit(tx, "parking", lease, timestamp(now.wall))
        self._watch(poke=True)
        if self._start_monitor:
            parking_monitor.ensure(self.database)
        return lease

    def unpark(self, id: str, seconds: float, *, token: int | None = None) -> Lease:
        """See `Parks.unpark`."""
        checks.check_seconds(seconds)
        self.open()
        with self.database.write() as tx:
            now = Moment.read(self.clock)
            lease = _going_on(tx, id, token, now)
            if lease.state is LeaseState.PARKING:
                if rows.advance(
                    tx, id, (ParkingStep.ASKED, ParkingStep.LOCKING, ParkingStep.MOVING), ParkingStep.UNDOING
                ):
                    rows.say_why(tx, id, ParkingReason.INTERRUPTED, "it was asked to come back")
            elif lease.state is LeaseState.PARKED:
                share = device_records.find_share(tx, lease.device)
                if share is None or share.id != lease.device_id:
                    raise InsufficientShare(f"the device of lease {id} is not here any more")
                if fault := node_watch.faults(tx).get(share.id):
                    raise checks.failed_device(lease.device, fault)
                checks.check_fits(lease, share)
                rows.take_back(tx, lease, share.token + 1, seconds, expected_seconds(lease.parked_bytes) * 4, now)
                lease = _going_on(tx, id, None, now)
                records.audit(tx, "unparking", lease, timestamp(now.wall))
        self._watch(poke=True)
        return lease

    def parking(self) -> Parking:
        """How much main memory may be used for parked leases and is, and what is proven here."""
        self.open()
        with self.database.read() as db:
            return Parking(memory.limit(policy.read(db).parking_memory), rows.set_aside(db), tuple(rows.proofs(db)))

    def get(self, id: str) -> Lease | None:
        """See `Leases.get`. Makes no ledger."""
        if self.database.is_missing():
            return None
        self.open()
        with self.database.read() as db:
            lease = records.find_lease(db, id, Moment.read(self.clock))
        self._look_after([lease] if lease else [])
        return lease

    def ended_since(self, id: str) -> float | None:
        """Since when, on the monotonic clock, the lease is over; None while it is not, or where it is not known."""
        with self.database.read() as db:
            return records.ended_since(db, id, Moment.read(self.clock))

    def list(self, *, ended: bool = False) -> Sequence[Lease]:
        """See `Leases.list`; in the order they were granted. Makes no ledger."""
        if self.database.is_missing():
            return []
        if not ended:
            live = self._find_live()
            now = self.clock.monotonic()
            leases = [records.as_of(lease, deadline, now) for lease, deadline in live]
        else:
            self.open()
            with self.database.read() as db:
                leases = records.leases(db, Moment.read(self.clock))
        self._look_after(leases)
        return leases

    def _find_live(self) -> Sequence[tuple[Lease, float]]:
        self.open()
        version, known = self.database.version(), self._live
        if known is not None and known[0] == version:
            return known[1]
        version = self.database.version()
        with self.database.read() as db:
            found = records.live(db)
        if version is not None and version == self.database.version():
            self._live = version, found
        return found

    def usage(self, index: int) -> LeasedTotal:
        """What of the device is leased. Raises `NoSuchDevice`."""
        self.open()
        with self.database.read() as db:
            row = db.execute("SELECT used_memory, used_compute FROM device WHERE number = ?", (index,)).fetchone()
        if row is None:
            raise checks.no_device(index, self._inventory.known())
        return LeasedTotal(*row)

    def health(self) -> tuple[Health, ...]:
        """What the monitor found last of what holds jobs to their leases."""
        self.open()
        with self.database.read() as db:
            return device_records.health(db)

    def watched(self) -> NodeFindings:
        """How the devices are, and who holds one without a lease, as the monitor saw it last. It looks as long as
        somebody asks: where there is a GPU it is started for that."""
        self.open()
        with self.database.read() as db:
            seen = node_watch.read(db, self.clock.monotonic())
            watched = any(device.type == "gpu" for device in device_records.devices(db))
        if watched:
            with suppress(LedgerUnavailable):
                self._watch(poke=self._start_monitor)
        return seen

    def policy(self) -> Policy:
        """What this node does about overuse and about processes without a lease."""
        self.open()
        with self.database.read() as db:
            return policy.read(db)

    def set_policy(self, change: PolicyChange) -> Policy:
        """Change it; what is live is held to it from now on. Written only where it is another than before."""
        before = self.policy()
        after = change.applied(before)
        if after != before:
            with self.database.write() as tx:
                policy.write(tx, change.applied(policy.read(tx)))
        return after

    def close(self) -> None:
        """Close the files; leases live on."""
        self._watcher.close()
        self.database.close()

    def _hold(self, lease: Lease, device: Device | None) -> None:
        """Hold running jobs to the lease as it is now."""
        if device is not None:
            from cumulus.chronos import enforce

            enforce.update(lease, device, self.home)

    def _cgroup(self, id: str) -> str:
        # Two ledgers of one machine may have leases of the same id.
        place = self.home.stat()
        return f"{place.st_dev:x}-{place.st_ino:x}-{id}"

    def _recorded(self, id: str, directory: str) -> str:
        """The lease's own cgroup, with all that is in it; where the process is in that of another lease, only where it
        is there."""
        above = os.path.dirname(directory)
        return above if cgroup.is_named(above, self._cgroup(id)) else directory

    def _granted(self, tx: sqlite3.Connection, request: LeaseRequest, now: Moment) -> Lease | CumulusError:
        try:
            checks.check_request(request)
            lease = records.find_lease(tx, request.id, now)
            if lease is None:
                return self._insert(tx, request, now)
            checks.check_same(lease, request)
            return lease
        except CumulusError as error:
            # It says so before it writes anything.
            return error

    def _insert(self, tx: sqlite3.Connection, request: LeaseRequest, now: Moment) -> Lease:
        share = device_records.find_share(tx, request.device)
        if share is None or share.type == "cpu":
            present = offered(device_records.devices(tx))
            if share is None or all(device.id != share.id for device in present):
                raise checks.no_device(request.device, present)
        if fault := node_watch.faults(tx).get(share.id):
            raise checks.failed_device(request.device, fault)
        checks.check_fits(request, share)
        whole = request.memory_bytes >= share.memory_bytes and request.compute >= FULL_COMPUTE
        overuse = overuse_of(request.overuse, policy.read(tx).overuse, whole=whole)
        return records.insert_lease(tx, request, share.id, share.token + 1, overuse, now)

    def _look_after(self, found: Sequence[Lease]) -> None:
        """A reader replaces a dead monitor too. Where it cannot, it answers all the same: the next grant says why."""
        if any(lease.state is not LeaseState.ENDED for lease in found):
            with suppress(LedgerUnavailable):
                self._watch(within=_LOOKED)

    def _watch(self, *, poke: bool = False, within: float = 0.0) -> None:
        """See that a monitor runs, or ran in the last `within` seconds; `poke` where it must look at once rather than
        at its next poll."""
        if self._start_monitor:
            self._watcher.ensure_running(within)
        if poke:
            monitor_control.poke(self.home)


def _going_on(tx: sqlite3.Connection, id: str, token: int | None, now: Moment) -> Lease:
    lease = records.find_lease(tx, id, now)
    if lease is None:
        raise NoSuchLease(f"there is no lease {id}", hint="see the live ones with: chronos_cli list")
    if not lease.state.goes_on:
        raise NoSuchLease(f"lease {id} has ended: {lease.end_reason}", hint="ask for a new lease")
    checks.check_token(lease, token)
    return lease


def _active(tx: sqlite3.Connection, id: str, token: int | None, now: Moment) -> Lease:
    lease = _going_on(tx, id, token, now)
    if lease.state is not LeaseState.ACTIVE:
        raise NoSuchLease(
            f"lease {id} is {lease.state.lower()}: no program starts in it", hint=f"first: chronos_cli unpark {id} TIME"
        )
    return lease
