"""Parking: a lease whose processes wait in main memory, while its share of the GPU is another's.

    Active -> Parking -> Parked -> Unparking -> Active

`park` and `unpark` write what is wanted and return; the node's monitor does it, and the lease's state tells. A park
that is refused or does not succeed leaves the lease ACTIVE, with `Lease.park_refused`. docs/parking.md has the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cumulus.chronos.contract.lease import Lease

_LEAST_SECONDS, _BYTES_PER_SECOND = 5.0, 2**30


def expected_seconds(memory_bytes: int) -> float:
    """A careful guess of how long so many bytes take to be parked, or to be brought back."""
    return _LEAST_SECONDS + memory_bytes / _BYTES_PER_SECOND


@dataclass(frozen=True, slots=True)
class Proof:
    """What the node's self-test, or a lease that did not come back, showed of one framework."""

    device: str
    """The name of the GPU's kind."""
    driver: str
    framework: str
    """cuda, torch, cupy, jax, tensorflow …"""
    holds: bool
    """Whether a program of it was parked and came back with the same data."""
    message: str
    """What was tested, or why it does not hold; for people."""
    tested_at: str


@dataclass(frozen=True, slots=True)
class Parking:
    """Of a node: how much main memory may be used for parked leases and is set aside, and what is proven there."""

    limit_bytes: int = 0
    used_bytes: int = 0
    proofs: tuple[Proof, ...] = ()


@runtime_checkable
class Parks(Protocol):
    """A lease authority that can park. All calls are idempotent."""

    def park(self, id: str, park_for: float, *, freeze: bool = False, token: int | None = None) -> Lease:
        """Begin to park the lease, for at most `park_for` seconds: then its program is ended. One that is PARKING or
        PARKED is returned as it is. With `freeze` its processes stand still meanwhile; else they go on but for CUDA.

        Raises `NoSuchLease`, `StaleToken`, `UsageError`; `ParkRefused` where it is known at once that it cannot be.
        """
        ...

    def unpark(self, id: str, seconds: float, *, token: int | None = None) -> Lease:
        """Take the share of a PARKED lease again, with a new token, and begin to bring its processes back; `seconds`
        count from when they go on. One that is UNPARKING or ACTIVE is returned as it is; one that is PARKING is
        brought back at once.

        Raises `NoSuchLease`, `StaleToken`, `UsageError`, `InsufficientShare`: it stays PARKED then.
        """
        ...
