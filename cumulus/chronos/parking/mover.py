"""Parks one lease, or brings it back. All or none: at the first refusal what was moved is brought back, and the program
goes on as if nothing had been.

Each step is in the ledger before it is done (`steps`), and each process before it is locked (`rows`): whoever takes
over asks the driver how far each one is. A step that somebody else has changed meanwhile (`unpark`, the lease's end) is
not passed: that raises `_Stopped`, and the new one counts.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from cumulus.chronos import device_records, enforce, policy, records
from cumulus.chronos.contract import Device, EndReason, Lease, LeaseState, ParkRefusal, Proof
from cumulus.chronos.database import Database
from cumulus.chronos.device_processes import DeviceProcesses
from cumulus.chronos.gpu_evidence import in_initial_namespace
from cumulus.chronos.lease_processes import LeaseProcesses
from cumulus.chronos.parking import check, memory, rows
from cumulus.chronos.parking.checkpoint_client import CheckpointClient, DriverRefused, DriverSilent
from cumulus.chronos.parking.driver import OUT_OF_MEMORY, CheckpointState
from cumulus.chronos.parking.evidence import Evidence, Investigator, frameworks_of, freezable
from cumulus.chronos.parking.rows import ParkedProcess, ParkingRow
from cumulus.chronos.parking.steps import ParkingStep
from cumulus.chronos.records import Moment
from cumulus.clock import Clock, timestamp
from cumulus.errors import ChronosError
from cumulus.lib import cgroup
from cumulus.lib.processes import ProcessIdentity, is_alive, send
from cumulus.resources.reasons import ParkingReason

ROUNDS = 10
"""Looks for new processes of a lease: one that forks on and on is not parked."""

FREED_SECONDS = 10.0
"""The driver's books may show memory for a second or so after it was freed."""

FROZEN_SECONDS = 5.0
_PAUSE = 0.05
_RESTORES, _WAITS_FOR_MEMORY, RESTORE_PAUSE = 3, 10, 1.0
"""How often a process is tried to be brought back, and where the GPU's memory is not free yet."""
_UNLOCKS = 3


class _Refused(Exception):
    def __init__(self, reason: ParkingReason, message: str) -> None:
        super().__init__(message)
        self.refusal = ParkRefusal(reason, message)


class _Stopped(Exception):
    """Somebody wants something else of the lease by now."""


class _Lost(Exception):
    """A process cannot be brought back. `died`: it ended meanwhile, which tells nothing of others."""

    def __init__(self, process: ParkedProcess, message: str, *, died: bool = False) -> None:
        super().__init__(message)
        self.process = process
        self.died = died


class _NoRoom(Exception):
    """The GPU has no room for what is to be brought back: others hold more of it than they lease."""


class _Known(NamedTuple):
    lease: Lease
    device: Device
    row: ParkingRow


@dataclass(frozen=True, slots=True)
class Means:
    """What a mover works with: its own for each, closed by it."""

    client: Callable[[], CheckpointClient]
    reader: Callable[[], DeviceProcesses]
    free_memory: Callable[[int], int] = memory.free
    """`memory.free`, of this machine."""
    freed_seconds: float = FREED_SECONDS
    restore_pause: float = RESTORE_PAUSE
    names_are_the_drivers: bool = field(default_factory=in_initial_namespace)
    """Whether process numbers here are the machine's, by which the driver names processes."""


class Mover:
    """`carry_on` does what the ledger says of the lease, until nothing is left to be done. For one thread."""

    def __init__(self, database: Database, clock: Clock, means: Means, say: Callable[[str], None]) -> None:
        self._database = database
        self._clock = clock
        self._say = say
        self._means = means
        self._client = means.client()
        self._reader = means.reader()
        self._investigator = Investigator(database.home, self._reader, self._client)

    def close(self) -> None:
        self._client.close()
        self._reader.close()

    def carry_on(self, id: str) -> bool:
        """False where the driver does not answer: to be tried again. Raises `LedgerUnavailable`."""
        while (known := self._known(id)) is not None and known.row.step not in (ParkingStep.NONE, ParkingStep.PARKED):
            try:
                if known.row.step is ParkingStep.ASKED:
                    self._park(known)
                elif known.row.step.backwards:
                    self._bring_back(known)
                else:
                    self._undo(id, ParkRefusal(ParkingReason.INTERRUPTED, "what parked it had ended"))
            except _Stopped:
                continue
            except _Refused as refused:
                self._undo(id, refused.refusal)
            except DriverRefused as refused:
                self._undo(id, ParkRefusal(ParkingReason.DRIVER_REFUSED, str(refused)))
            except _Lost as lost:
                self._lose(known, lost)
            except _NoRoom as full:
                if not self._stay(known, str(full)):
                    return False
            except DriverSilent as silent:
                if known.row.step.backwards:
                    self._say(f"lease {id} waits to be brought back: {silent}")
                    return False
                self._undo(id, ParkRefusal(ParkingReason.DRIVER_REFUSED, str(silent)))
        self._let_go(id)
        return True

    def take_in(
        self, id: str, newcomers: Collection[ProcessIdentity], stubborn: Collection[ProcessIdentity] = ()
    ) -> set[ProcessIdentity]:
        """Of a PARKED lease: what has come to the GPU since is moved too, or killed, the `stubborn` at once. It has no
        share to use. Returns who had come: not those that the driver has in main memory, whatever its books say. Raises
        DriverSilent where it does not tell how far one is."""
        came: set[ProcessIdentity] = set()
        for who in sorted(newcomers):
            known = self._known(id)
            if known is None or known.row.step is not ParkingStep.PARKED:
                break
            try:
                state = self._client.state(who)
            except DriverRefused as error:
                self._keep_out(id, who, error)
                continue
            if state is None or state is CheckpointState.CHECKPOINTED:
                continue  # It is gone, or the driver's books lag behind.
            came.add(who)
            try:
                if who in stubborn:
                    raise _Refused(ParkingReason.PROCESSES_CHANGED, "it came back again and again")
                self._take_in(known, who, state)
                self._say(f"process {who.pid} of the parked lease {id} had come to the GPU: it was parked too")
            except _Stopped:
                break
            except (_Refused, DriverRefused, DriverSilent) as error:
                self._keep_out(id, who, error)
        return came

    def _keep_out(self, id: str, who: ProcessIdentity, why: Exception) -> None:
        self._say(f"process {who.pid} of the parked lease {id} had come to the GPU: it is killed ({why})")
        with suppress(PermissionError):
            send(who, signal.SIGKILL)

    def _take_in(self, known: _Known, who: ProcessIdentity, state: CheckpointState) -> None:
        id = known.lease.id
        with self._database.read() as db:
            others = sum(each.bytes for each in rows.processes(db, id) if each.process != who)
        size = self._investigator.held(known.device.id).processes.get(who.pid, 0)
        self._set_aside(known, others + size, ParkingStep.PARKED, [], moved=others)
        with self._database.write() as tx:
            rows.note_processes(tx, id, [ParkedProcess(who, size, tuple(sorted(frameworks_of(who.pid))))])
        if state is CheckpointState.RUNNING:
            self._client.lock(who)
        self._client.checkpoint(who, size)

    def count(self, id: str) -> None:
        """Of a PARKED lease: main memory of processes that are gone is given back. Where one is gone the others are let
        go on, if they stand still: who waits for it notices, and a container whose program is gone ends."""
        with self._database.read() as db:
            row, known = rows.find(db, id), rows.processes(db, id)
        gone = [each.process for each in known if not is_alive(each.process)]
        size = sum(each.bytes for each in known if each.process not in gone)
        if row is not None and row.step is ParkingStep.PARKED and (gone or size != row.bytes):
            if gone:
                for directory in row.frozen:
                    cgroup.thaw(directory)
            with self._database.write(durable=False) as tx:
                rows.forget_processes(tx, id, gone)
                rows.put_aside(tx, id, size)

    def not_parked(self, id: str) -> set[ProcessIdentity]:
        """Of a PARKED lease: those of its processes that are not in main memory. Raises DriverSilent."""
        with self._database.read() as db:
            known = rows.processes(db, id)
        return {
            each.process for each in known if self._state(each) in (CheckpointState.RUNNING, CheckpointState.LOCKED)
        }

    # ---- parking ----

    def _park(self, known: _Known) -> None:
        lease, device, row = known
        found = self._look(known)
        self._check(found, known)
        moved = self._noted(found)
        directories = self._freezable(found, row.freeze)
        self._set_aside(known, found.held_bytes, ParkingStep.ASKED, [each.process.pid for each in moved])
        self._advance(lease.id, ParkingStep.ASKED, ParkingStep.LOCKING)
        moved = self._lock_all(known, moved)
        self._advance(lease.id, ParkingStep.LOCKING, ParkingStep.MOVING)
        moved = self._measured(known, moved)
        self._move(known, moved)
        late = self._lock_all(known, moved)[len(moved) :]
        if late:
            late = self._measured(known, late, moved)
            self._move(known, late)
            moved = [*moved, *late]
        self._wait_until_free(device, moved)
        self._freeze(lease.id, directories)
        parked = self._record_parked(lease, row)
        if parked is None:
            raise _Stopped
        self._hold(parked, device)
        self._say(f"lease {lease.id} is parked: {parked.parked_bytes} bytes in {parked.moved_in:.1f} s")

    def _record_parked(self, lease: Lease, row: ParkingRow, before: ParkingStep = ParkingStep.MOVING) -> Lease | None:
        """The lease, parked from here on; None where its end has come meanwhile: it is not parked past that."""
        with self._database.write() as tx:
            now = Moment.read(self._clock)
            current = records.find_lease(tx, lease.id, now)
            if current is None or not current.state.goes_on:
                return None
            if not rows.park(tx, lease, row.park_for, now, row.began, before):
                return None
            parked = records.find_lease(tx, lease.id, now)
            assert parked is not None
            records.audit(tx, "parked", parked, timestamp(now.wall))
            return parked

    def _look(self, known: _Known) -> Evidence:
        with self._database.read() as db:
            live = records.leases(db, Moment.read(self._clock), records.LIVE)
            all_of_them = [LeaseProcesses.load(db, lease.id) for lease in live]
            gpus = [device.id for device in device_records.devices(db) if device.type == "gpu"]
        mine = next((each for each in all_of_them if each.id == known.lease.id), None)
        if mine is None:
            raise _Stopped
        return self._investigator.look(mine, all_of_them, known.device.id, gpus)

    def _check(self, found: Evidence, known: _Known, but: Collection[ProcessIdentity] = ()) -> None:
        """Raises _Refused where a process, but those, cannot be parked."""
        if found.untold or not self._means.names_are_the_drivers:
            text = "the driver does not tell here what each process holds of the GPU"
            raise _Refused(ParkingReason.NOT_SUPPORTED, text)
        with self._database.read() as db:
            proofs = rows.proofs(db)
        some = [each for each in found.processes if each.process not in but]
        driver = found.driver or known.device.driver
        if refusal := check.refusal(some, known.device, driver, proofs, unproven=known.row.unproven):
            raise _Refused(ParkingReason(refusal.reason), refusal.message)

    def _noted(self, found: Evidence) -> list[ParkedProcess]:
        return [ParkedProcess(each.process, each.held_bytes, tuple(sorted(each.frameworks))) for each in found.movable]

    def _set_aside(self, known: _Known, size: int, step: ParkingStep, pids: Iterable[int], moved: int = 0) -> None:
        """Main memory, in one transaction with the check that it is there: two leases never get the same. Of it
        `moved` bytes are in use already."""
        id = known.lease.id
        own = memory.least_room(pids)
        with self._database.write() as tx:
            row = rows.find(tx, id)
            if row is None or row.step is not step:
                raise _Stopped
            limit = memory.limit(policy.read(tx).parking_memory)
            free = self._means.free_memory(rows.not_moved_yet(tx, id))
            used = rows.set_aside(tx) - row.bytes + moved
            refusal = check.check_room(max(0, size - moved), limit, used, free, own)
            if refusal is not None:
                raise _Refused(ParkingReason(refusal.reason), refusal.message)
            rows.put_aside(tx, id, size)

    def _lock_all(self, known: _Known, moved: Sequence[ParkedProcess]) -> list[ParkedProcess]:
        """Lock those, then what has come to CUDA meanwhile, until nothing new comes; in the order of locking. What is
        locked already is not again."""
        locked = list(moved)
        waiting = [each for each in locked if self._state(each) is CheckpointState.RUNNING]
        quiet = 0
        for _ in range(ROUNDS):
            with self._database.write() as tx:
                rows.note_processes(tx, known.lease.id, waiting)
            for each in waiting:
                self._wanted(known)
                if is_alive(each.process):
                    self._client.lock(each.process)
            found = self._look(known)
            have = {each.process for each in locked}
            self._check(found, known, but=have)
            waiting = [each for each in self._noted(found) if each.process not in have]
            locked += waiting
            quiet = 0 if waiting else quiet + 1
            if quiet and (found.complete or quiet > 1):
                return locked
        raise _Refused(ParkingReason.PROCESSES_CHANGED, f"new processes came in each of {ROUNDS} looks")

    def _measured(
        self, known: _Known, locked: Sequence[ParkedProcess], moved: Sequence[ParkedProcess] = ()
    ) -> list[ParkedProcess]:
        """What they hold now that they are locked, beside those that were moved already. Raises _Refused where that is
        more than there is room for."""
        held = self._investigator.held(known.device.id).processes
        found = [each._replace(bytes=held.get(each.process.pid, each.bytes)) for each in locked]
        before = sum(each.bytes for each in moved)
        size, pids = before + sum(each.bytes for each in found), [each.process.pid for each in found]
        self._set_aside(known, size, ParkingStep.MOVING, pids, moved=before)
        with self._database.write() as tx:
            rows.note_processes(tx, known.lease.id, found)
        return found

    def _move(self, known: _Known, moved: Iterable[ParkedProcess]) -> None:
        for each in moved:
            self._wanted(known)
            if is_alive(each.process):
                self._client.checkpoint(each.process, each.bytes)

    def _wait_until_free(self, device: Device, moved: Iterable[ParkedProcess]) -> None:
        """Until NVML says that none of them holds anything of the device."""
        pids = {each.process.pid for each in moved}
        deadline = self._clock.monotonic() + self._means.freed_seconds
        while left := pids & self._holding(device):
            if self._clock.monotonic() >= deadline:
                named = ", ".join(map(str, sorted(left)))
                raise _Refused(ParkingReason.GPU_NOT_FREED, f"the driver says that process {named} still holds memory")
            self._clock.sleep(_PAUSE)

    def _holding(self, device: Device) -> set[int]:
        return {pid for pid, size in self._investigator.held(device.id).processes.items() if size}

    def _freezable(self, found: Evidence, wanted: bool) -> tuple[str, ...]:
        """The cgroups to be frozen. Raises _Refused."""
        if not wanted:
            return ()
        directories = freezable([each.process for each in found.processes])
        if directories is None:
            text = "one of its processes is in no cgroup of its own, with which it could be frozen"
            raise _Refused(ParkingReason.CANNOT_FREEZE, text)
        return directories

    def _freeze(self, id: str, directories: Sequence[str]) -> None:
        """After the memory was moved: the driver's thread in the process does that."""
        if not directories:
            return
        with self._database.write() as tx:
            rows.note_frozen(tx, id, directories)
        deadline = self._clock.monotonic() + FROZEN_SECONDS
        frozen = all(map(cgroup.freeze, directories))
        while frozen and not all(map(cgroup.is_frozen, directories)) and self._clock.monotonic() < deadline:
            self._clock.sleep(_PAUSE)
        if not frozen or not all(map(cgroup.is_frozen, directories)):
            raise _Refused(ParkingReason.CANNOT_FREEZE, "its cgroup does not stand still")

    # ---- back ----

    def _undo(self, id: str, why: ParkRefusal) -> None:
        with self._database.write() as tx:
            if rows.advance(tx, id, (ParkingStep.ASKED, ParkingStep.LOCKING, ParkingStep.MOVING), ParkingStep.UNDOING):
                rows.say_why(tx, id, why.reason, why.message)

    def _bring_back(self, known: _Known) -> None:
        """All that the ledger names of it, from however far it is. Thawed first: a frozen process restores nothing."""
        lease, device, row = known
        for directory in row.frozen:
            cgroup.thaw(directory)
        with self._database.read() as db:
            moved = rows.processes(db, lease.id)
        for each in moved:
            self._restore(known, each)
        # Before they go on, so that no call of theirs is refused by what held while they were parked.
        self._hold(lease, device)
        for each in moved:
            self._unlock(each)
        with self._database.write() as tx:
            now = Moment.read(self._clock)
            if not rows.finish(tx, lease.id, now, row.began if row.step is ParkingStep.RETURNING else None):
                raise _Stopped
            back = records.find_lease(tx, lease.id, now)
            assert back is not None
            if row.step is ParkingStep.RETURNING:
                back = records.begin(tx, back, now)
            records.audit(
                tx, "unparked" if row.step is ParkingStep.RETURNING else "park-refused", back, timestamp(now.wall)
            )
        self._hold(back, device)
        how = f"in {back.moved_in:.1f} s" if row.step is ParkingStep.RETURNING else f"as it was: {row.message}"
        self._say(f"lease {lease.id} is back, {how}")

    def _restore(self, known: _Known, each: ParkedProcess) -> None:
        tried = 0
        while (state := self._state(each)) is CheckpointState.CHECKPOINTED:
            self._wanted(known)
            try:
                self._client.restore(each.process, each.bytes)
            except DriverRefused as refused:
                tried += 1
                if not is_alive(each.process):
                    text = f"process {each.process.pid} ended while it was brought back: {refused}"
                    raise _Lost(each, text, died=True) from refused
                if refused.code == OUT_OF_MEMORY and tried >= _WAITS_FOR_MEMORY:
                    raise _NoRoom(str(refused)) from refused
                if refused.code != OUT_OF_MEMORY and tried >= _RESTORES:
                    raise _Lost(each, str(refused)) from refused
                self._clock.sleep(self._means.restore_pause)
        if state is CheckpointState.FAILED:
            raise _Lost(each, f"process {each.process.pid} cannot be brought back: the driver says that it has failed")

    def _stay(self, known: _Known, why: str) -> bool:
        """Let it wait in main memory, as before: its share is given back. False where that is to be tried again."""
        lease, device, row = known
        if row.step is not ParkingStep.RETURNING:
            self._say(f"lease {lease.id} waits to be brought back: {why}")
            return False
        with self._database.read() as db:
            moved = rows.processes(db, lease.id)
        try:
            for each in moved:
                if self._state(each) is CheckpointState.LOCKED:
                    self._client.checkpoint(each.process, each.bytes)
            self._wait_until_free(device, moved)
        except (DriverRefused, DriverSilent, _Refused) as error:
            self._say(f"lease {lease.id} waits to be brought back: {error}")
            return False
        parked = self._record_parked(lease, row, ParkingStep.RETURNING)
        if parked is None:
            return True
        self._hold(parked, device)
        self._say(f"lease {lease.id} stays parked, since its GPU has no room for it: {why}")
        return True

    def _let_go(self, id: str) -> None:
        """Of a lease that began to end while it was moved: its programs are let go on, to save what they can in their
        grace period. Its share is still held. What does not succeed is left to the lease's end."""
        with self._database.read() as db:
            lease, row = records.find_lease(db, id, Moment.read(self._clock)), rows.find(db, id)
            moved = rows.processes(db, id)
        if lease is None or row is None or lease.state is not LeaseState.ENDING or not lease.holds_share:
            return
        for directory in row.frozen:
            cgroup.thaw(directory)
        for each in moved:
            with suppress(DriverRefused, DriverSilent):
                if self._state(each) is CheckpointState.CHECKPOINTED:
                    self._client.restore(each.process, each.bytes)
                if self._state(each) is CheckpointState.LOCKED:
                    self._client.unlock(each.process)

    def _unlock(self, each: ParkedProcess) -> None:
        tried = 0
        while self._state(each) is CheckpointState.LOCKED:
            try:
                self._client.unlock(each.process)
            except DriverRefused as refused:
                tried += 1
                if tried >= _UNLOCKS:
                    # What another monitor began may be going on still: nothing is lost by it.
                    raise DriverSilent(str(refused)) from refused
                self._clock.sleep(_PAUSE)

    def _state(self, each: ParkedProcess) -> CheckpointState | None:
        """None where it is gone. Raises DriverSilent also where the driver does not say: nothing may be left half
        done."""
        if not is_alive(each.process):
            return None
        try:
            return self._client.state(each.process)
        except DriverRefused as refused:
            if not is_alive(each.process):
                return None
            raise DriverSilent(str(refused)) from refused

    def _lose(self, known: _Known, lost: _Lost) -> None:
        """Its program is over. What it was made with is not parked here any more."""
        now = Moment.read(self._clock)
        found = self._reader.clients([known.device.id])
        driver = (found[1] if found else "") or known.device.driver
        name = known.device.name
        frameworks = () if lost.died else lost.process.frameworks
        failed = [Proof(name, driver, each, False, str(lost), timestamp(now.wall)) for each in frameworks]
        with self._database.write() as tx:
            rows.record_proofs(tx, failed)
            reason = ParkingReason.DRIVER_REFUSED if lost.died else ParkingReason.FAILED_BEFORE
            rows.say_why(tx, known.lease.id, reason, str(lost))
            current = records.find_lease(tx, known.lease.id, now)
            if current is not None and current.state.goes_on:
                records.begin_end(tx, current, EndReason.UNPARK_FAILED, now)
        self._say(f"lease {known.lease.id} is lost: {lost}")

    # ---- what both need ----

    def _known(self, id: str) -> _Known | None:
        """None where the lease has begun to end, or was never to be parked."""
        with self._database.read() as db:
            lease, row = records.find_lease(db, id, Moment.read(self._clock)), rows.find(db, id)
            device = device_records.find_device(db, lease.device_id) if lease is not None else None
        if lease is None or row is None or device is None or not lease.state.goes_on:
            return None
        return _Known(lease, device, row)

    def _wanted(self, known: _Known) -> None:
        """Raises _Stopped where the lease is at another step than this mover thinks, or ends."""
        now = self._known(known.lease.id)
        if now is None or now.row.step.backwards != known.row.step.backwards or now.row.step is ParkingStep.PARKED:
            raise _Stopped

    def _advance(self, id: str, before: ParkingStep, after: ParkingStep) -> None:
        with self._database.write() as tx:
            if not rows.advance(tx, id, (before,), after):
                raise _Stopped

    def _hold(self, lease: Lease, device: Device) -> None:
        try:
            enforce.update(lease, device, self._database.home)
        except (ChronosError, OSError) as error:
            self._say(f"lease {lease.id}: {error}")
