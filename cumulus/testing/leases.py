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
from typing import Protocol

from cumulus.chronos.contract import (
    FULL_COMPUTE,
    Device,
    EndReason,
    Lease,
    LeaseRequest,
    LeaseState,
)
from cumulus.clock import Clock, timestamp
from cumulus.errors import ChronosError, InsufficientShare, NodeUnreachable, NoSuchDevice, NoSuchLease, StaleToken
from cumulus.resources.enforcement import Enforcement, Overuse, overuse_of
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


@dataclass(slots=True)
class _Held:
    lease: Lease
    ends: float
    """When it expires, on the monotonic clock."""
    seconds: float
    """What it was granted for, which counts from its program's start."""
    ended: float = 0.0
    holders: list[Holder] = field(default_factory=list)


class FakeLeases:
    """One node. It outlives the controllers that use it."""

    def __init__(self, devices: Sequence[Device], clock: Clock, *, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
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
            held = self._active(id)
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
                if held.lease.state is LeaseState.ACTIVE and held.ends <= now:
                    self._end(held, held.ends, EndReason.EXPIRED)
                if held.lease.state is LeaseState.ENDING and all(holder.ends() <= now for holder in held.holders):
                    held.lease = replace(held.lease, state=LeaseState.ENDED, ended_at=timestamp(self._clock.now()))
                    held.ended = now
                    del self._live[id]
                    self._ended.append(id)
            while self._ended and self._held[self._ended[0]].ended + REMEMBERED_SECONDS < now:
                del self._held[self._ended.popleft()]

    def next_change(self) -> float | None:
        """When, on the monotonic clock, a lease changes next by itself."""
        times = [held.ends for held in self._live.values() if held.lease.state is LeaseState.ACTIVE]
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
        taken = [held.lease for held in self._live.values() if held.lease.device == request.device]
        free_memory = device.memory_bytes - sum(lease.memory_bytes for lease in taken)
        free_compute = FULL_COMPUTE - sum(lease.compute for lease in taken)
        if request.memory_bytes > free_memory or request.compute > free_compute:
            raise InsufficientShare(
                f"device {request.device} has {free_memory} bytes and {free_compute / 10:g}% of compute free, "
                f"not {request.memory_bytes} and {request.compute / 10:g}%"
            )
        self._tokens[request.device] += 1
        ends_in = request.start_within + request.seconds
        lease = Lease(
            id=request.id, device=request.device, device_id=device.id, memory_bytes=request.memory_bytes,
            compute=request.compute, user=request.user, grace=request.grace, token=self._tokens[request.device],
            state=LeaseState.ACTIVE, granted_at=self._wall(0), expires_at=self._wall(ends_in), expires_in=ends_in,
            owner=request.owner, name=request.name,
            overuse=overuse_of(request.overuse, None, whole=(free_memory, free_compute) == _share(request)[1:]),
        )  # fmt: skip
        return _Held(lease, self._clock.monotonic() + ends_in, request.seconds)

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

    def _active(self, id: str) -> _Held:
        held = self._held.get(id)
        if held is None or held.lease.state is not LeaseState.ACTIVE:
            raise NoSuchLease(f"there is no active lease {id}")
        return held

    def _end(self, held: _Held, at: float, reason: EndReason) -> None:
        if held.lease.state is LeaseState.ACTIVE:
            held.lease = replace(held.lease, state=LeaseState.ENDING, end_reason=reason)
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


def _share(lease: Lease | LeaseRequest) -> tuple[int, int, int]:
    return lease.device, lease.memory_bytes, lease.compute
