"""Who waits for a share, and who holds one: what everybody may know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job, or a partition of no job, that waits. Times are RFC 3339; "" where nobody can say."""

    place: int
    """From 1, in the whole queue."""
    queue: str
    """"" where there are no queues."""
    name: str
    """namespace/name."""
    user: str
    share: str
    """20Gi, or 2x 50%."""
    seconds: float
    """How long its lease lasts at most."""
    expected: str
    """When it starts if leases end as early as their like did before."""
    latest: str
    """When it starts at the latest: a promise where `promised`, else if every lease runs to its end."""
    promised: bool
    reason: str
    """Why it can't start as things are: it is not admitted, or no node could hold it. "" where it can."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A share that is taken."""

    queue: str
    name: str
    user: str
    place: str
    """node, device."""
    share: str
    ends: str


@dataclass(frozen=True, slots=True)
class Line:
    """All who wait, in their order, and all who hold shares, by the end of their leases."""

    waiting: tuple[Waiting, ...]
    more: int
    """How many wait beyond those."""
    holding: tuple[Holding, ...]
