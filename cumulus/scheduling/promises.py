"""Starts that were promised, kept from cycle to cycle: conservative backfilling with what is written on the partitions.

A promise has a time and seats. Each cycle first puts all of them back, then lifts one after the other for its own
gang: that one is bound now, moves to a start that is better, or has its seats back. So a promise only moves earlier.
Where its seats cannot be had in time (their node is lost, a lease runs over, an urgent job has them), the gang gets the
earliest others, and the cause is told.

Each reservation is longer than its lease by a turnover: what a grant, a start and the end of the last processes may
take. Delays of those that come one after the other then do not add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from cumulus.resources.device import FULL_COMPUTE
from cumulus.resources.key import Key
from cumulus.resources.reasons import SchedulingReason
from cumulus.scheduling import fit
from cumulus.scheduling.assign import Seat
from cumulus.scheduling.availability import Availability
from cumulus.scheduling.equivalence import uniform_shape
from cumulus.scheduling.fit import Reason
from cumulus.scheduling.policy import CycleGate, DevicePlace, Lenders
from cumulus.scheduling.snapshot import Gang, Hold, Node, ReturnsBy, Snapshot
from cumulus.scheduling.timeline import MICROSECOND, microseconds
from cumulus.scheduling.windows import Windows

TURNOVER = 15_000_000
"""Microseconds that are kept free after each lease that a promise counts on."""

LEAST_STEP = 60_000_000
"""A promise is written anew where it moves earlier by so many microseconds at least, and by a part of the wait."""
LEAST_PART = 0.05

Earliest = Callable[[Gang, int], tuple[int, list[Seat]] | None]
"""The earliest start that a gang can have for so long, and its seats then."""


class Kept(NamedTuple):
    """What is kept for a gang, in microseconds from now."""

    start: int
    end: int
    seats: list[Seat]


class GivenSeat(NamedTuple):
    partition: Key
    node: str
    device: int


@dataclass(frozen=True, slots=True)
class PromiseChange:
    """A promise that was given, moved, found to be within its queue's quota, or withdrawn (`start_by` None)."""

    gang: Gang
    start_by: datetime | None
    seats: tuple[GivenSeat, ...] = ()
    cause: Reason | None = None
    """Why it is later than it was."""
    sure: bool = False
    """Whether it is within its queue's quota."""


class Promises:
    """Those of one cycle: at most `most`, and what is taken back by those to whom others yield (`lenders`)."""

    def __init__(
        self, snapshot: Snapshot, availability: Availability, most: int, gate: CycleGate, windows: Windows,
        lenders: Lenders | None = None,
    ) -> None:  # fmt: skip
        self._windows = windows
        self._lenders = lenders
        self.admitted: dict[str, Gang | Reason] = {}
        """Gangs that were promised a start, as they are admitted; or why they are not any more."""
        self.unsettled = False
        """Whether another cycle may place more: what a promise kept came free after a gang before it was refused."""
        self._snapshot = snapshot
        self._availability = availability
        self._most = most
        self._gate = gate
        self._nodes: dict[str, Node] = {}
        self._kept: dict[str, Kept] = {}
        self._lifted: Kept | None = None
        self._refused = False
        self._moved: dict[str, PromiseChange] = {}
        self._given = 0
        self._is_back = False
        self._uncertain: set[DevicePlace] | None = None
        self._seen = 0

    @property
    def kept(self) -> Mapping[str, Kept]:
        """What is promised, by gang; not that of a gang that is lifted."""
        return self._kept

    @property
    def lifted(self) -> int | None:
        """The start that was kept for the gang that is lifted."""
        return None if self._lifted is None else self._lifted.start

    @property
    def moved(self) -> tuple[PromiseChange, ...]:
        """What is to be written."""
        return tuple(self._moved.values())

    def put_back(self, taken: Sequence[tuple[str, DevicePlace]], earliest: Earliest) -> None:
        """Keep all that was promised, once a cycle. `taken`: by whom what was bound in this cycle before, and where."""
        if self._is_back:
            return
        self._is_back = True
        self._nodes = {node.name: node for node in self._snapshot.nodes}
        waiting = [(gang.promised, gang.name, gang) for gang in self._snapshot.pending if gang.promised is not None]
        broken: list[tuple[datetime, Gang, Reason]] = []
        for promised, name, gang in sorted(waiting, key=lambda found: (self._rank(found[1]), *found[:2])):
            admitted = self.admitted[name] = self._gate.admit(gang)
            if isinstance(admitted, Reason):
                self._withdraw(gang, admitted)
                continue
            self._given += 1
            gang = admitted
            seats = self._seats(gang)
            if isinstance(seats, Reason):
                broken.append((promised, gang, seats))
                continue
            self._gate.take(gang, [seat.share for seat in seats])
            with self._windows.lifted(gang):
                if not self._keep_in_time(gang, promised, seats):
                    broken.append((promised, gang, self._who_took(seats, promised, taken)))
                elif (sure := self._is_sure(name) or self._promise(gang, seats, promised)) != gang.sure:
                    # Its queue gave back enough meanwhile, or has no such quota any more. Only now, when all that is
                    # sure is put back.
                    self._moved[name] = PromiseChange(gang, promised, _places(gang, seats), sure=sure)
        for promised, gang, cause in broken:
            with self._windows.lifted(gang):
                self._reseat(gang, promised, cause, earliest)

    def _rank(self, gang: str) -> int:
        """Whose promise is put back first: those of urgent bands, then those within their queue's quota."""
        if self._lenders is None:
            return 0
        return 0 if self._lenders.urgent(gang) else 1 if self._lenders.sure(gang) else 2

    def _is_sure(self, gang: str) -> bool:
        """Whether it goes before promises of those who would borrow."""
        return self._lenders is not None and self._lenders.sure(gang)

    def _promise(self, gang: Gang, seats: Sequence[Seat], start_by: datetime) -> bool:
        """Whether that is within its queue's quota, which counts it from then on."""
        return self._lenders is not None and self._lenders.promise(gang, [seat.share for seat in seats], start_by)

    def _tell(self, gang: Gang, start: int, seats: Sequence[Seat], cause: Reason | None = None) -> None:
        """Write down that it starts then, and there."""
        start_by = self._start_by(start)
        sure = self._promise(gang, seats, start_by)
        self._moved[gang.name] = PromiseChange(gang, start_by, _places(gang, seats), cause, sure)

    def _withdraw(self, gang: Gang, cause: Reason) -> None:
        if self._lenders is not None:
            self._lenders.withdraw(gang)
        self._moved[gang.name] = PromiseChange(gang, None, cause=cause)

    def lift(self, gang: Gang) -> None:
        """What is kept for the gang is free, until `keep` or `kept_word`."""
        self._lifted = self._kept.pop(gang.name, None)
        if self._lifted is not None:
            start, end, seats = self._lifted
            for slot, memory, compute in seats:
                self._availability.lift(slot, start, end - start, memory, compute, gang.name)

    def kept_word(self, gang: Gang) -> None:
        """The gang that was lifted is bound."""
        self._lifted = None
        self._moved.pop(gang.name, None)
        self.unsettled = self.unsettled or self._refused

    def keep(self, gang: Gang, found: tuple[int, list[Seat]] | None) -> Kept | None:
        """Keep something again for the gang that was lifted: what was found, where that is better, else what it had."""
        self._refused = True
        old = self._lifted
        if old is None:
            return None
        self._lifted = None
        if (
            found is None
            or found[0] + max(LEAST_STEP, LEAST_PART * old.start) > old.start
            or self._borrows(gang, *found)
        ):
            if self._reserve(gang, old) or found is None:
                return old
            # Something came back there for others in this cycle. The next one moves it to what was found, and tells;
            # until then nobody behind it has that.
            return self._keep_from(gang, *found)
        new = self._keep_from(gang, *found)
        self._tell(gang, *found, self._still_late(gang, found[0]))
        self.unsettled = True
        return new

    def _borrows(self, gang: Gang, start: int, seats: Sequence[Seat]) -> bool:
        """Whether a promise within a quota would be beyond it if it were so early."""
        if self._lenders is None:
            return False
        moment = self._snapshot.now + start * MICROSECOND
        return not self._lenders.may_move(gang, [seat.share for seat in seats], moment)

    def _still_late(self, gang: Gang, start: int) -> Reason | None:
        """Why the gang starts later than it was promised, where this cycle has moved it before and it still does."""
        before, late = self._moved.get(gang.name), gang.promised is not None and self._start_by(start) > gang.promised
        return before.cause if before is not None and late else None

    def give(self, gang: Gang, start: int, seats: Sequence[Seat], taken: Sequence[tuple[str, DevicePlace]]) -> None:
        """Promise a gang the start that has just been reserved for it, where nothing speaks against it."""
        if self._given >= self._most or uniform_shape(gang) is None or any(m.demand.ports for m in gang.members):
            return
        if not self._certain(seats, taken):
            return
        self._given += 1
        self._gate.take(gang, [seat.share for seat in seats])
        self._kept[gang.name] = _kept(gang, start, list(seats))
        self._tell(gang, start, seats)

    def take_back(self, gang: Gang, start: int, seats: list[Seat], taken: Sequence[tuple[str, DevicePlace]]) -> bool:
        """Promise a gang what comes back for it, whatever is promised there to those who would borrow it: the next
        cycle moves them. Whether that was possible."""
        if not self._certain(seats, taken):
            return False
        self._lifted = None
        if gang.promised is None:
            self._given += 1
            self._gate.take(gang, [seat.share for seat in seats])
        kept = self._kept[gang.name] = _kept(gang, start, seats)
        for slot, memory, compute in seats:
            self._availability.reserve(slot, start, kept.end - start, memory, compute, gang.name)
        self._tell(gang, start, seats, self._still_late(gang, start))
        self.unsettled = True
        return True

    def reseat(self, moved: Mapping[str, Kept]) -> None:
        """Keep other seats for gangs whose promises stay as early as they are."""
        for name, (start, end, seats) in moved.items():
            gang = self.admitted[name]
            assert isinstance(gang, Gang)
            old = self._kept[name]
            for slot, memory, compute in old.seats:
                self._availability.lift(slot, old.start, old.end - old.start, memory, compute, name)
            for slot, memory, compute in seats:
                self._availability.reserve(slot, start, end - start, memory, compute, name)
            self._kept[name] = Kept(start, end, seats)
            self._tell(gang, start, seats, self._still_late(gang, start))

    def _certain(self, seats: Sequence[Seat], taken: Sequence[tuple[str, DevicePlace]]) -> bool:
        """Whether it is known when everything on these devices ends."""
        if self._uncertain is None:
            self._uncertain = {(h.node, h.device) for h in self._snapshot.holds if not h.returns_by.certain}
        self._uncertain.update(place for _, place in taken[self._seen :])
        self._seen = len(taken)
        return all(seat.slot.place not in self._uncertain for seat in seats)

    def _start_by(self, start: int) -> datetime:
        return self._snapshot.now + (start + TURNOVER) * MICROSECOND

    def _seats(self, gang: Gang) -> list[Seat] | Reason:
        """The seats that were promised; why they cannot be had at all."""
        seats = []
        for member in gang.members:
            given, wanted = member.promise, member.demand.filter
            assert given is not None
            node = self._nodes.get(given.node)
            if node is None:
                return Reason(SchedulingReason.NO_SUCH_NODE, f"there is no node {given.node} any more")
            device = next((d for d in node.devices if d.index == given.device), None)
            if device is None:
                return Reason(SchedulingReason.NO_MATCHING_DEVICE, f"device {given.device} of {given.node} is gone")
            reason = fit.unavailable(node) or fit.node_mismatch(wanted, node) or fit.device_mismatch(wanted, device)
            if reason is not None:
                return Reason(reason.code, f"{given.node}: {reason.message}")
            share = fit.share_of(member.demand, device.memory_bytes)
            seats.append(Seat(self._availability.slot(given.node, given.device), *share))
        return seats

    def _keep_in_time(self, gang: Gang, promised: datetime, seats: list[Seat]) -> bool:
        """Keep the seats from when they were planned, or a little later where they are late, but not too late."""
        latest = max(0, (promised - self._snapshot.now) // MICROSECOND)
        start = max(0, latest - TURNOVER)
        end = latest + microseconds(gang.seconds)
        times = {time for seat in seats for time in seat.slot.timeline.times if start < time <= latest}
        return any(self._reserve(gang, Kept(moment, end, seats)) for moment in (start, *sorted(times)))

    def _reseat(self, gang: Gang, promised: datetime, cause: Reason, earliest: Earliest) -> None:
        found = earliest(gang, microseconds(gang.seconds) + TURNOVER)
        if found is None:
            self._withdraw(gang, cause)
            return
        start, seats = found
        self._keep_from(gang, start, seats)
        # Where it is earlier it is told too: later its new seats may be others'.
        self._tell(gang, start, seats, cause if self._start_by(start) > promised else None)

    def _keep_from(self, gang: Gang, start: int, seats: list[Seat]) -> Kept:
        kept = _kept(gang, start, seats)
        self._reserve(gang, kept)
        return kept

    def _reserve(self, gang: Gang, kept: Kept) -> bool:
        """All of it or nothing."""
        start, end, seats = kept
        done: list[Seat] = []
        for seat in seats:
            free = seat.slot.free(start, end - start)
            if free[0] < seat.memory or free[1] < seat.compute:
                for slot, memory, compute in done:
                    self._availability.lift(slot, start, end - start, memory, compute, gang.name)
                return False
            self._availability.reserve(seat.slot, start, end - start, seat.memory, seat.compute, gang.name)
            done.append(seat)
        self._kept[gang.name] = kept
        return True

    def _who_took(self, seats: Sequence[Seat], promised: datetime, taken: Sequence[tuple[str, DevicePlace]]) -> Reason:
        """Who has the seats at the time for which they were promised."""
        places = {seat.slot.place for seat in seats}
        for name, place in taken:
            if place in places:
                said = f"{name}, which is urgent, took device {place[1]} of {place[0]}"
                return Reason(SchedulingReason.RESERVED, said)
        late = [
            hold for hold in self._snapshot.holds if (hold.node, hold.device) in places and hold.returns_at > promised
        ]
        full = _too_full(seats, late)
        late = [hold for hold in late if (hold.node, hold.device) in full]
        if late:
            last = max(late, key=lambda hold: hold.returns_at)
            where = f"device {last.device} of {last.node}"
            if last.returns_by is ReturnsBy.OVERDUE:
                said = f"{last.holder} still holds {where}: its lease is over, its processes are being ended"
            else:
                said = f"{last.holder} holds {where} until {fit.utc(last.returns_at)}"
            return Reason(SchedulingReason.RESERVED, said)
        first = min(
            {name for seat in seats for name in seat.slot.reserved}, key=self._has_the_time(promised), default=""
        )
        by = f" for {first}" if first else ""
        why = "whose queue takes back what it is sure of" if self._is_sure(first) else "which goes before it"
        return Reason(SchedulingReason.RESERVED, f"its seats are kept{by}, {why}")

    def _has_the_time(self, promised: datetime) -> Callable[[str], tuple[bool, bool, bool, float, str]]:
        """Orders those for whom something is kept there: who most likely has taken the time that was promised."""
        moment = (promised - self._snapshot.now) // MICROSECOND
        since = {gang.name: gang.since.timestamp() for gang in self._snapshot.pending if gang.promised is not None}

        def order(name: str) -> tuple[bool, bool, bool, float, str]:
            kept = self._kept.get(name)
            over = kept is not None and kept.end <= moment
            # Who was promised a start before, as it was, is the least to blame: of two, who came first.
            return over, not self._is_sure(name), kept is not None, -since.get(name, 0.0), name

        return order


def _too_full(seats: Sequence[Seat], holds: Sequence[Hold]) -> set[DevicePlace]:
    """Where the seats do not fit beside these."""
    left = {seat.slot.place: (seat.slot.device.memory_bytes, FULL_COMPUTE) for seat in seats}
    shares = [(seat.slot.place, seat.memory, seat.compute) for seat in seats]
    shares += [((hold.node, hold.device), hold.memory_bytes, hold.compute) for hold in holds]
    for place, memory, compute in shares:
        left[place] = left[place][0] - memory, left[place][1] - compute
    return {place for place, free in left.items() if min(free) < 0}


def _kept(gang: Gang, start: int, seats: list[Seat]) -> Kept:
    return Kept(start, start + microseconds(gang.seconds) + TURNOVER, seats)


def _places(gang: Gang, seats: Sequence[Seat]) -> tuple[GivenSeat, ...]:
    return tuple(
        GivenSeat(member.partition, *seat.slot.place) for member, seat in zip(gang.members, seats, strict=True)
    )
