"""A lease, the request for one, and the protocol through which controllers reach a node's leases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from cumulus.resources.device import Device
from cumulus.resources.enforcement import Overuse, Sharing
from cumulus.resources.quantity import format_bytes


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A share of one device for a time.

    `id` is chosen by the caller and makes the grant idempotent: asking again with the same id returns
    the same live lease. `memory_bytes` >= 1; `compute` 1..1000 thousandths; `seconds` > 0;
    `grace` >= 0 seconds between SIGTERM and SIGKILL when it expires.
    """

    id: str
    device: int
    memory_bytes: int
    compute: int
    seconds: float
    user: str = ""
    grace: float = 10.0
    owner: str = ""
    """Which control plane asks, in a word that is its own, so that it finds its leases again; "" for people."""
    start_within: float = 0.0
    """The lease's time counts from `Leases.begin` on, or from so many seconds after the grant at the latest."""
    name: str = ""
    """What people call it: with it they may say which lease they mean. Several may have the same."""
    overuse: Overuse | None = None
    """What is done where its processes hold more than it; None for the node's own rule. It only ever makes that
    stricter."""
    sharing: Sharing = Sharing.CONCURRENT
    """Whether its programs use MPS, with which they cannot be parked."""


class LeaseState(StrEnum):
    ACTIVE = "Active"
    PARKING = "Parking"
    """What its processes hold of the GPU is being moved into main memory. The share is still taken."""
    PARKED = "Parked"
    """Its processes wait in main memory, and the share is free. It ends when its parking does."""
    UNPARKING = "Unparking"
    """The share is taken again, and its processes are being brought back."""
    ENDING = "Ending"
    """Expired or released, its processes are being ended; the share is still taken."""
    ENDED = "Ended"

    @property
    def goes_on(self) -> bool:
        """Whether it has not begun to end."""
        return self not in (LeaseState.ENDING, LeaseState.ENDED)


class EndReason(StrEnum):
    EXPIRED = "expired"
    RELEASED = "released"
    OVERUSED = "overused"
    """Its processes held more of a GPU than was leased, and were killed at once."""
    LOST = "lost"
    """Its device failed."""
    UNPARK_FAILED = "unpark-failed"
    """It was parked, and its processes could not be brought back."""
    REBOOTED = "rebooted"
    """It was parked when its machine was restarted: what waited in main memory is gone."""


@dataclass(frozen=True, slots=True)
class ParkRefusal:
    """Why a lease was not parked. Its program goes on as if nothing had been."""

    reason: str
    """A `ParkingReason`, of this version or a later one."""
    message: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted share. `expires_in` counts on the node's monotonic clock, as of when this was read;
    `granted_at` and `expires_at` are the node's wall clock as RFC 3339, for people."""

    id: str
    device: int
    device_id: str
    memory_bytes: int
    compute: int
    user: str
    grace: float
    token: int
    """Fencing token: grows with every grant on that device."""
    state: LeaseState
    granted_at: str
    expires_at: str
    expires_in: float
    """Seconds left, 0 or less once expired."""
    end_reason: EndReason | None = None
    ended_at: str = ""
    owner: str = ""
    """As in the request."""
    name: str = ""
    """As in the request."""
    overuse: Overuse = Overuse.REPORT
    """What is done where its processes hold more than it: the stricter of its request and its node."""
    held_bytes: int = 0
    """What its processes were found to hold while that is more than it; 0 while it is not."""
    sharing: Sharing = Sharing.CONCURRENT
    """As in the request."""
    parked_bytes: int = 0
    """Main memory that is set aside for its parked processes: while it is PARKING, PARKED or UNPARKING."""
    parked_at: str = ""
    """Since when it holds no share: set while it is PARKED, and while it ends from there."""
    moved_in: float = 0.0
    """Seconds that it took to park or unpark it the last time; 0 where it never was."""
    park_refused: ParkRefusal | None = None
    """Why it was not parked when that was asked for last."""

    @property
    def holds_share(self) -> bool:
        """Whether its memory and compute are taken from its device."""
        return self.state is not LeaseState.ENDED and not self.parked_at

    @property
    def overused(self) -> str:
        """What there is to say of overuse, for people; "" where there is none."""
        if not self.held_bytes:
            return ""
        return f"held {format_bytes(self.held_bytes)} of GPU memory and leases {format_bytes(self.memory_bytes)}"


@dataclass(frozen=True, slots=True)
class LeasedTotal:
    """What of a device is leased (Active and Ending leases)."""

    memory_bytes: int
    compute: int


@runtime_checkable
class Prepares(Protocol):
    """A lease authority that can set up what holds a program which another engine starts, a container say."""

    def prepare(self, id: str) -> Mapping[str, str]:
        """The variables that such a program needs to be held to the lease; what stands behind them is made now.

        Raises `NoSuchLease` where the lease is not ACTIVE, `ChronosError` where what is promised cannot be set up."""
        ...


class Leases(Protocol):
    """A node's lease authority, local (the ledger) or remote (SSH). All calls are idempotent.

    Every method may raise `LedgerUnavailable` or, remotely, `NodeUnreachable`.
    """

    def devices(self) -> Sequence[Device]: ...

    def grant(self, request: LeaseRequest) -> Lease:
        """The lease for `request.id`, made now or before. A lease that has ended is returned as ENDED, never
        granted again: an id is used once.

        Raises `NoSuchDevice`, `InsufficientShare`; `ChronosError` where the id lives with another share.
        """
        ...

    def begin(self, id: str) -> Lease | None:
        """Its program starts: the lease's time counts from now, where it did not yet. Its end never moves later; asking
        again changes nothing. The lease in whatever state, None where there is none."""
        ...

    def renew(self, id: str, seconds: float) -> Lease:
        """Let the lease end `seconds` from now, if that is later than it would. Raises `NoSuchLease`."""
        ...

    def release(self, id: str) -> Lease | None:
        """Begin to end the lease: its processes get SIGTERM, after its grace SIGKILL; the share is free when
        they are gone. None where no such lease was ever made (or it is forgotten). Asking again is harmless."""
        ...

    def get(self, id: str) -> Lease | None:
        """The lease in whatever state; ended ones are remembered for at least a day."""
        ...

    def list(self, *, ended: bool = False) -> Sequence[Lease]:
        """Live leases (ACTIVE and ENDING), and with `ended` the remembered ended ones too."""
        ...
