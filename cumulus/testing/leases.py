"""A node's leases in memory, on an injected clock, with scripted faults: for tests and the simulation.

Keeps the contract of `chronos.contract.Leases` to the letter and passes the ledger's conformance suite. What the
monitor does on a real node, ending the processes of an expired lease, happens here once the clock has passed its end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Protocol, runtime_checkable

from cumulus.chronos.contract import (
    FULL_COMPUTE,
    Device,
    EndReason,
    Lease,
    LeaseRequest,
    LeaseState,
    ParkRefusal,
)
from cumulus.clock import Clock, timestamp
from cumulus.errors import (
    ChronosError,
    InsufficientShare,
    NodeUnreachable,
    NoSuchDevice,
    NoSuchLease,
    ParkRefused,
    StaleToken,
    UsageError,
)
from cumulus.resources.enforcement import Enforcement, Overuse, overuse_of
from cumulus.resources.reasons import ParkingReason
from cumulus.testing.faults import Faults

REMEMBERED_SECONDS = 86400.0
"""How long ended leases are kept, as on a real node."""


class Holder(Protocol):
    """The processes of one workload, as the node sees them. Times are on the node's monotonic clock."""

    def terminate(self, at: float, grace: float, reason: EndReason) -> None:
        """They got SIGTERM at `at`, and get SIGKILL `grace` seconds later. Asking again changes nothing."""
        ...

    def ends(self) -> float:
        """When the last of them is gone, as things stand."""
        ...


@runtime_checkable
class ParkableHolder(Holder, Protocol):
    """One that is told when its lease is parked."""

    def park(self, at: float) -> None:
        """Its CUDA work stands still from then on."""
        ...

    def unpark(self, at: float) -> None:
        """And goes on."""
        ...


@dataclass(slots=True)
class _Held:
    lease: Lease
    ends: float
    """When it expires, on the monotonic clock."""
    seconds: float
    """What it was granted for, which counts from its program's start."""
    ending: float = 0.0
    """When its processes were told to end, on the monotonic clock."""
    ended: float = 0.0
    holders: list[Holder] = field(default_factory=list)
    moved: float = 0.0
    """When it is parked, or back."""
    park_for: float = 0.0


class FakeLeases:
    """One node. It outlives the controllers that use it."""

    def __init__(self, devices: Sequence[Device], clock: Clock, *, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.parking_memory = sum(device.memory_bytes for device in devices)
        """Bytes of main memory for parked leases."""
        self.parking_seconds = 0.0
        """How long a lease takes to be parked, and to come back."""
        self._refused: dict[str, ParkRefusal] = {}
        self._lost: set[str] = set()
        self.without_room: set[str] = set()
        """Parked leases for which their GPU has no room, since others hold more than they lease: they stay parked."""
        self.reachable = True
        """Set False to cut the node off: its leases go on, and end, while no call gets an answer."""
        self._devices = {device.index: device for device in devices}
        self._clock = clock
        self._lock = threading.RLock()
        self._held: dict[str, _Held] = {}
        self._live: dict[str, _Held] = {}
        """Those of `_held` that have not ended."""
        self._ended: deque[str] = deque()
        """The others, in the order of their ends."""
        self._tokens = dict.fromkeys(self._devices, 0)

    def devices(self) -> Sequence[Device]:
        with self._lock, self.faults.around("devices"):
            self._reach()
            return list(self._devices.values())

    def grant(self, request: LeaseRequest) -> Lease:
        with self._lock, self.faults.around("grant", request.id):
            self._reach()
            held = self._held.get(request.id)
            if held is None:
                held = self._held[request.id] = self._live[request.id] = self._granted(request)
            elif held.lease.state is not LeaseState.ENDED and _share(held.lease) != _share(request):
                raise ChronosError(f"lease {request.id} is there with another share")
            return self._read(held)

    def begin(self, id: str) -> Lease | None:
        with self._lock, self.faults.around("begin", id):
            self._reach()
            held = self._held.get(id)
            if held is None:
                return None
            if held.lease.state is LeaseState.ACTIVE:
                self._begin(held)
            return self._read(held)

    def renew(self, id: str, seconds: float) -> Lease:
        with self._lock, self.faults.around("renew", id):
            self._reach()
            held = self._going_on(id)
            self._renew(held, seconds)
            return self._read(held)

    def release(self, id: str) -> Lease | None:
        with self._lock, self.faults.around("release", id):
            self._reach()
            held = self._held.get(id)
            if held is None:
                return None
            self._end(held, self._clock.monotonic(), EndReason.RELEASED)
            self.settle()
            return self._read(held)

    def park(self, id: str, park_for: float, *, freeze: bool = False, token: int | None = None) -> Lease:
        with self._lock, self.faults.around("park", id):
            self._reach()
            _check_seconds(park_for)
            held = self._going_on(id, token)
            if held.lease.state in (LeaseState.PARKING, LeaseState.PARKED):
                return self._read(held)
            if held.lease.state is LeaseState.UNPARKING:
                raise ParkRefused(f"lease {id} is being brought back", reason=ParkingReason.INTERRUPTED)
            now, size = self._clock.monotonic(), held.lease.memory_bytes
            refusal = self._refused.get(id) or self._refused.get("")
            if refusal is None and self._parked_bytes() + size > self.parking_memory:
                refusal = ParkRefusal(ParkingReason.NO_MEMORY, "the node has not enough main memory for it")
            held.lease = replace(held.lease, park_refused=refusal)
            if refusal is None:
                held.park_for, held.moved = park_for, now + self.parking_seconds
                held.lease = replace(held.lease, state=LeaseState.PARKING, parked_bytes=size)
                for holder in _told(held):
                    holder.park(now)
            self.settle()
            return self._read(held)

    def unpark(self, id: str, seconds: float, *, token: int | None = None) -> Lease:
        with self._lock, self.faults.around("unpark", id):
            self._reach()
            _check_seconds(seconds)
            held = self._going_on(id, token)
            if held.lease.state is LeaseState.PARKING:
                refusal = ParkRefusal(ParkingReason.INTERRUPTED, "it was asked to come back")
                held.lease = replace(held.lease, park_refused=refusal)
                self._back(held, self._clock.monotonic())
            elif held.lease.state is LeaseState.PARKED:
                self._check_fits(held.lease.device, held.lease.memory_bytes, held.lease.compute)
                self._take_back(held, seconds)
            self.settle()
            return self._read(held)

    def refuse_park(self, reason: ParkingReason, message: str, id: str = "") -> None:
        """Of that lease, or of all that have no refusal of their own, from now on."""
        self._refused[id] = ParkRefusal(reason, message)

    def fail_unpark(self, id: str) -> None:
        """Its processes will not come back, where one is still there: what ended before is not brought back."""
        self._lost.add(id)

    def reboot(self) -> None:
        """The machine was restarted: what waited in its main memory is gone."""
        with self._lock:
            self.settle()
            for held in list(self._live.values()):
                if held.lease.state in (LeaseState.PARKING, LeaseState.PARKED, LeaseState.UNPARKING):
                    self._end(held, self._clock.monotonic(), EndReason.REBOOTED)
                    held.holders.clear()
            self.settle()

    def get(self, id: str) -> Lease | None:
        with self._lock, self.faults.around("get", id):
            self._reach()
            held = self._held.get(id)
            return None if held is None else self._read(held)

    def list(self, *, ended: bool = False) -> Sequence[Lease]:
        with self._lock, self.faults.around("list"):
            self._reach()
            return [self._read(held) for held in (self._held if ended else self._live).values()]

    def capacity(self, device: int) -> int:
        """Bytes of a device, past all faults."""
        return self._devices[device].memory_bytes

    def peek(self) -> Sequence[Lease]:
        """The live leases, past all faults: for oracles."""
        with self._lock:
            self.settle()
            return [self._read(held) for held in self._live.values()]

    def attach(self, id: str, token: int, holder: Holder) -> None:
        """The workload's processes run inside the lease from now on, and its time counts.

        Raises `NoSuchLease` when it is not active, `StaleToken` when `token` is not its own. Never fails otherwise: it
        happens on the node itself.
        """
        with self._lock:
            self.settle()
            held = self._active(id)
            if token != held.lease.token:
                raise StaleToken(f"lease {id} has the token {held.lease.token}, not {token}")
            held.holders.append(holder)
            self._begin(held)

    def why_ended(self, id: str) -> EndReason | None:
        """Why the lease ended or is ending, as its node knows it; None while it goes on, or where there is none."""
        with self._lock:
            held = self._held.get(id)
            return None if held is None else held.lease.end_reason

    def overuse(self, id: str, held_bytes: int) -> None:
        """Its processes hold so much from now on: what the node's monitor does about it happens now."""
        with self._lock:
            self.settle()
            held = self._active(id)
            over = held_bytes > held.lease.memory_bytes
            held.lease = replace(held.lease, held_bytes=held_bytes if over else 0)
            if over and held.lease.overuse is Overuse.END:
                self._end(held, self._clock.monotonic(), EndReason.OVERUSED)

    def settle(self) -> None:
        """Do what the node's monitor would have done by now."""
        with self._lock:
            now = self._clock.monotonic()
            for id, held in list(self._live.items()):
                self._move(held, now)
                if held.lease.state.goes_on and held.ends <= now:
                    self._end(held, held.ends, EndReason.EXPIRED)
                if held.lease.state is LeaseState.ENDING and all(holder.ends() <= now for holder in held.holders):
                    gone = max(held.ending, *(holder.ends() for holder in held.holders), 0.0)
                    held.lease = replace(held.lease, state=LeaseState.ENDED, ended_at=self._wall(gone - now))
                    held.lease = replace(held.lease, parked_bytes=0, parked_at="", moved_in=0.0, park_refused=None)
                    held.ended = now
                    del self._live[id]
                    self._ended.append(id)
            while self._ended and self._held[self._ended[0]].ended + REMEMBERED_SECONDS < now:
                del self._held[self._ended.popleft()]

    def next_change(self) -> float | None:
        """When, on the monotonic clock, a lease changes next by itself."""
        times = [held.ends for held in self._live.values() if held.lease.state.goes_on]
        times += [held.moved for held in self._live.values() if held.lease.state in _MOVING]
        times += [
            max(holder.ends() for holder in held.holders)
            for held in self._live.values()
            if held.lease.state is LeaseState.ENDING and held.holders
        ]
        return min(times, default=None)

    def _reach(self) -> None:
        if not self.reachable:
            raise NodeUnreachable("the node does not answer")
        self.settle()

    def _granted(self, request: LeaseRequest) -> _Held:
        device = self._devices.get(request.device)
        if device is None:
            raise NoSuchDevice(f"there is no device {request.device}")
        free_memory, free_compute = self._check_fits(request.device, request.memory_bytes, request.compute)
        self._tokens[request.device] += 1
        ends_in = request.start_within + request.seconds
        lease = Lease(
            id=request.id, device=request.device, device_id=device.id, memory_bytes=request.memory_bytes,
            compute=request.compute, user=request.user, grace=request.grace, token=self._tokens[request.device],
            state=LeaseState.ACTIVE, granted_at=self._wall(0), expires_at=self._wall(ends_in), expires_in=ends_in,
            owner=request.owner, name=request.name, sharing=request.sharing,
            overuse=overuse_of(request.overuse, None, whole=(free_memory, free_compute) == _share(request)[1:]),
        )  # fmt: skip
        return _Held(lease, self._clock.monotonic() + ends_in, request.seconds)

    def _check_fits(self, device: int, memory_bytes: int, compute: int) -> tuple[int, int]:
        taken = [held.lease for held in self._live.values() if held.lease.device == device and held.lease.holds_share]
        free_memory = self._devices[device].memory_bytes - sum(lease.memory_bytes for lease in taken)
        free_compute = FULL_COMPUTE - sum(lease.compute for lease in taken)
        if memory_bytes > free_memory or compute > free_compute:
            raise InsufficientShare(
                f"device {device} has {free_memory} bytes and {free_compute / 10:g}% of compute free, "
                f"not {memory_bytes} and {compute / 10:g}%"
            )
        return free_memory, free_compute

    def _parked_bytes(self) -> int:
        return sum(held.lease.parked_bytes for held in self._live.values())

    def _move(self, held: _Held, now: float) -> None:
        """What is parked by now is, and what is back."""
        if held.lease.state not in _MOVING or held.moved > min(now, held.ends):
            return
        if held.lease.state is LeaseState.PARKING or held.lease.id in self.without_room:
            held.ends = held.moved + held.park_for
            left = held.ends - self._clock.monotonic()
            held.lease = replace(
                held.lease, state=LeaseState.PARKED, parked_at=self._wall(held.moved - self._clock.monotonic()),
                expires_at=self._wall(left), moved_in=self.parking_seconds,
            )  # fmt: skip
        elif held.lease.id in self._lost and any(holder.ends() > held.moved for holder in held.holders):
            self._end(held, held.moved, EndReason.UNPARK_FAILED)
        else:
            self._back(held, held.moved)

    def _take_back(self, held: _Held, seconds: float) -> None:
        """The share of a parked lease, with a new token."""
        self._tokens[held.lease.device] += 1
        held.moved, held.seconds = self._clock.monotonic() + self.parking_seconds, seconds
        held.ends = held.moved + seconds
        held.lease = replace(
            held.lease, state=LeaseState.UNPARKING, token=self._tokens[held.lease.device], parked_at="",
            expires_at=self._wall(held.ends - self._clock.monotonic()),
        )  # fmt: skip

    def _back(self, held: _Held, at: float) -> None:
        held.lease = replace(held.lease, state=LeaseState.ACTIVE, parked_bytes=0, moved_in=self.parking_seconds)
        for holder in _told(held):
            holder.unpark(at)

    def _begin(self, held: _Held) -> None:
        ends = self._clock.monotonic() + held.seconds
        if ends < held.ends:
            held.ends = ends
            held.lease = replace(held.lease, expires_at=self._wall(held.seconds))

    def _renew(self, held: _Held, seconds: float) -> None:
        ends = self._clock.monotonic() + seconds
        if ends > held.ends:
            held.ends = ends
            held.seconds = max(held.seconds, seconds)
            held.lease = replace(held.lease, expires_at=self._wall(seconds))

    def _going_on(self, id: str, token: int | None = None) -> _Held:
        held = self._held.get(id)
        if held is None or not held.lease.state.goes_on:
            raise NoSuchLease(f"there is no live lease {id}")
        if token is not None and token != held.lease.token:
            raise StaleToken(f"lease {id} has the token {held.lease.token}, not {token}")
        return held

    def _active(self, id: str) -> _Held:
        held = self._held.get(id)
        if held is None or held.lease.state is not LeaseState.ACTIVE:
            raise NoSuchLease(f"there is no active lease {id}")
        return held

    def _end(self, held: _Held, at: float, reason: EndReason) -> None:
        if held.lease.state.goes_on:
            held.lease = replace(held.lease, state=LeaseState.ENDING, end_reason=reason)
            held.ending = at
            for holder in held.holders:
                holder.terminate(at, 0.0 if reason is EndReason.OVERUSED else held.lease.grace, reason)

    def _read(self, held: _Held) -> Lease:
        return replace(held.lease, expires_in=held.ends - self._clock.monotonic())

    def _wall(self, seconds: float) -> str:
        return timestamp(self._clock.now() + timedelta(seconds=seconds))


def fake_device(
    index: int = 0, *, memory_bytes: int = 16 * 2**30, enforcement: Enforcement = Enforcement.HARD
) -> Device:
    """A GPU that exists nowhere."""
    return Device(
        index=index, id=f"fake/{index}", name="Fake GPU", vendor="Cumulus", type="gpu", memory_bytes=memory_bytes,
        driver="1.0", enforcement=enforcement,
    )  # fmt: skip


_MOVING = (LeaseState.PARKING, LeaseState.UNPARKING)


def _told(held: _Held) -> Sequence[ParkableHolder]:
    return [holder for holder in held.holders if isinstance(holder, ParkableHolder)]


def _check_seconds(seconds: float) -> None:
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{seconds}s is out of range")


def _share(lease: Lease | LeaseRequest) -> tuple[int, int, int]:
    return lease.device, lease.memory_bytes, lease.compute
