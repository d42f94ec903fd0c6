"""One placement pass: a snapshot in, bindings and the gangs that go on waiting out. Pure; `now` is the snapshot's.

Controllers write the bindings; `explain` says why a gang waits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cumulus.resources.enforcement import Enforcement
from cumulus.resources.key import Key
from cumulus.scheduling.assign import Seat, assign
from cumulus.scheduling.board import Board
from cumulus.scheduling.fit import Reason
from cumulus.scheduling.snapshot import Filter, Gang, Request, Snapshot

RESERVATION_DEPTH = 8
"""Gangs with the same filters that get a reservation in one pass. One would do against starvation; a few more
keep those next in line from being overtaken again and again."""

SCANNED_STARTS = 64
"""Up to so many possible starts are tried one by one, more are bisected."""


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
class Kept:
    """A share that a reservation keeps for one request."""

    partition: Key
    node: str
    device: int
    memory_bytes: int
    compute: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is kept for a gang that waits: from `start`, when all leases in the way are over."""

    gang: str
    start: datetime
    seats: tuple[Kept, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A gang that stays in the queue. `explain` tells why, node by node."""

    gang: Gang
    position: int
    """From 1, in the whole queue."""
    reservation: Reservation | None
    """None where no ready node could hold it, or where it is too far back in the queue."""
    hopeless: bool
    """Known to fit on no ready node even with nothing else there."""

    @property
    def reason(self) -> Reason:
        """A word and a sentence that stay the same while the gang waits, fit for a condition."""
        if self.hopeless:
            return Reason("NoNodeFits", "no ready node could hold it even with nothing else there")
        return Reason("WaitingForShare", "waits until enough is free on nodes that match")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write, and who goes on waiting, in the order of the queue."""

    bindings: tuple[Binding, ...]
    refusals: tuple[Refusal, ...]


def place(snapshot: Snapshot) -> Plan:
    """One pass over the queue: each gang in turn is bound, or waits with a reservation, or only waits.

    EASY backfilling, with more than one reservation: a later gang is bound only where that delays no
    reservation, so that a stream of small ones never starves a large one (Lifka, "The ANL/IBM SP Scheduling
    System", 1995).
    """
    run = Pass(snapshot)
    for gang in snapshot.pending:
        if not run.bind(gang):
            run.refuse(gang)
    return Plan(tuple(run.bindings), tuple(run.refusals))


class Pass:
    """One pass in progress: `place` runs it to the end, `explain` as far as the gang asked for."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.board = Board(snapshot)
        self.bindings: list[Binding] = []
        self.refusals: list[Refusal] = []
        self._now = snapshot.now
        self._position = 0
        self._refused: set[tuple[object, ...]] = set()
        self._hopeless: set[tuple[object, ...]] = set()
        self._not_before: dict[tuple[object, ...], int] = {}
        self._reserved: Counter[frozenset[Filter]] = Counter()

    def bind(self, gang: Gang) -> bool:
        """Bind the next gang of the queue if it fits now."""
        self._position += 1
        shape = gang.shape
        if shape in self._refused:
            return False
        length = microseconds(gang.seconds)
        seats = assign(self.board, gang, 0, length)
        if seats is None:
            self._refused.add(shape)
            return False
        for request, seat in zip(gang.requests, seats, strict=True):
            self.board.take(seat.slot, length, seat.memory, seat.compute)
            self.bindings.append(_binding(gang, request, seat))
        return True

    def refuse(self, gang: Gang) -> Refusal:
        """Let the gang that `bind` was last asked for wait, with a reservation if few of its kind have one."""
        reservation = None
        filters = frozenset(request.demand.filter for request in gang.requests)
        if gang.shape not in self._hopeless and self._reserved[filters] < RESERVATION_DEPTH:
            reservation = self.reserve(gang)
            self._reserved[filters] += reservation is not None
        refusal = Refusal(gang, self._position, reservation, gang.shape in self._hopeless)
        self.refusals.append(refusal)
        return refusal

    def reserve(self, gang: Gang) -> Reservation | None:
        """Keep the earliest start that the gang can have; None where no ready node could ever hold it."""
        shape, length = gang.shape, microseconds(gang.seconds)
        found = self._earliest(gang, shape, length)
        if found is None:
            self._hopeless.add(shape)
            return None
        start, seats = found
        for seat in seats:
            seat.slot.reserve(start, length, seat.memory, seat.compute, gang.name)
        return Reservation(
            gang=gang.name,
            start=self._now + timedelta(microseconds=start),
            seats=tuple(
                Kept(request.partition, seat.slot.device.node, seat.slot.device.index, seat.memory, seat.compute)
                for request, seat in zip(gang.requests, seats, strict=True)
            ),
        )

    def _earliest(self, gang: Gang, shape: tuple[object, ...], length: int) -> tuple[int, list[Seat]] | None:
        if len(gang.requests) == 1:
            demand = gang.requests[0].demand
            first = self.board.pool(demand.filter).earliest(demand, length)
            return (first[0], [Seat(first[1].slot, first[1].memory, first[1].compute)]) if first else None
        least = self._not_before.get(shape, 1)
        filters = {request.demand.filter for request in gang.requests}
        starts = sorted({time for wanted in filters for time in self.board.pool(wanted).starts() if time >= least})
        found = _first_start(starts, lambda start: assign(self.board, gang, start, length))
        if found is not None:
            self._not_before[shape] = found[0]
        return found


def microseconds(seconds: float) -> int:
    """Whole microseconds, rounded up."""
    return math.ceil(seconds * 1_000_000)


def _first_start(starts: list[int], attempt: Callable[[int], list[Seat] | None]) -> tuple[int, list[Seat]] | None:
    """The first of `starts` at which the attempt works.

    Many starts are bisected: without reservations in the way what is free only grows, so that this is exact for the
    first gang that waits; for others the result is a start that works, perhaps not the very first.
    """
    if len(starts) <= SCANNED_STARTS:
        for start in starts:
            seats = attempt(start)
            if seats is not None:
                return start, seats
        return None
    best = None
    low, high = 0, len(starts) - 1
    while low <= high:
        # The last start is tried first: where the gang does not fit then, it never does.
        middle = (low + high) // 2 if best else high
        seats = attempt(starts[middle])
        if seats is not None:
            best = (starts[middle], seats)
            high = middle - 1
        elif best is None:
            return None
        else:
            low = middle + 1
    return best


def _binding(gang: Gang, request: Request, seat: Seat) -> Binding:
    device = seat.slot.device
    return Binding(
        partition=request.partition, uid=request.uid, gang=gang.name, node=device.node, device=device.index,
        device_name=device.name, memory_bytes=seat.memory, compute=seat.compute, enforcement=device.enforcement,
    )  # fmt: skip
