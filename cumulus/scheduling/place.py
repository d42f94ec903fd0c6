"""Placement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cumulus.resources.enforcement import Enforcement
from cumulus.resources.key import Key
from cumulus.scheduling.snapshot import Gang


@dataclass(frozen=True, slots=True)
class Binding:
    """The device on which a partition gets its share. All bindings of one `gang` are written, or none."""

    partition: Key
    uid: str
    gang: str
    node: str
    device: int
    device_name: str
    memory_bytes: int
    compute: int
    enforcement: Enforcement


@dataclass(frozen=True, slots=True)
class Seat:
    """A place that a reservation keeps for one request."""

    request: int
    """Position in the gang's `requests`."""
    node: str
    device: int
    memory_bytes: int
    compute: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is kept for a gang that waits: from `start`, when all leases in the way are over."""

    gang: str
    start: datetime
    seats: tuple[Seat, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A gang that stays in the queue. `explain` tells why, node by node."""

    gang: Gang
    position: int
    """From 1, in the whole queue."""
    reservation: Reservation | None
    """None where no ready node could hold it, or where it is too far back in the queue."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write, and who goes on waiting, in the order of the queue."""

    bindings: tuple[Binding, ...]
    refusals: tuple[Refusal, ...]
