"""Takes back what was lent out, in one cycle: finds the earliest start that a gang can have within its queue's quota if
others yield, who of them has to, and what is kept for it. The policy says who may yield (`policy.Preemption`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from cumulus.resources.device import FULL_COMPUTE
from cumulus.resources.key import Key
from cumulus.scheduling import fit
from cumulus.scheduling.assign import Seat, assign
from cumulus.scheduling.availability import Availability, Slot
from cumulus.scheduling.equivalence import uniform_shape
from cumulus.scheduling.fit import Reason
from cumulus.scheduling.policy import DevicePlace, Lender, Lenders
from cumulus.scheduling.promises import LEAST_STEP, TURNOVER, Kept
from cumulus.scheduling.snapshot import Gang, Hold, Snapshot
from cumulus.scheduling.starts import earliest
from cumulus.scheduling.timeline import MICROSECOND, FreeTimeline, microseconds
from cumulus.scheduling.windows import Windows

MOST = 16
"""Gangs for which a cycle looks at what others could give up."""


class Booked(NamedTuple):
    """A share that was bound in this cycle."""

    slot: Slot
    length: int
    memory: int
    compute: int


class Victim(NamedTuple):
    """A share that is taken back from its job."""

    hold: Hold
    at: datetime
    """From when its job is asked to end."""
    gang: Gang
    """For whom."""


class TakenBack(NamedTuple):
    """What a gang can have, in microseconds from now, and who yields for it: nobody where only a promise is in the
    way."""

    start: int
    seats: list[Seat]
    victims: tuple[Victim, ...]
    moved: Mapping[str, Kept]
    """Promises within quotas that have other seats for it, by gang: no later than they were."""


class _Sooner(NamedTuple):
    start: int
    seats: list[Seat]
    lenders: list[Lender]


class CycleReclaim:
    """That of one cycle."""

    def __init__(self, snapshot: Snapshot, availability: Availability, lenders: Lenders, windows: Windows) -> None:
        self._windows = windows
        self._snapshot = snapshot
        self._availability = availability
        self._lenders = lenders
        self._looked = 0
        self._kept: Mapping[str, Kept] = {}
        self._in_vain: set[tuple[object, ...]] = set()
        """Gangs like these were looked at in this cycle, and nothing comes back for them."""

    def find(
        self, gang: Gang, otherwise: Callable[[], int | None], booked: Sequence[Booked], kept: Mapping[str, Kept],
        admitted: Mapping[str, Gang | Reason],
    ) -> TakenBack | None:  # fmt: skip
        """The earliest start within its quota, where that is clearly earlier than what the gang has `otherwise`.
        `kept`: what is promised; promises of those who would borrow are no obstacle, they move, but for urgent ones.
        `admitted`: gangs that were promised a start, as they are admitted."""
        if self._looked >= MOST:
            return None
        # What comes back only gets less within a cycle. One that was promised something compares with that.
        demand = gang.members[0].demand
        like = (gang.queue, gang.yielded, gang.seconds, len(gang.members), id(demand), gang.promised)
        if like in self._in_vain:
            return None
        found = None
        if uniform_shape(gang) is not None and not any(member.demand.ports for member in gang.members):
            within = self._lenders.within(gang)
            if within is not None:
                found = self._earliest(gang, within, otherwise(), booked, kept, admitted)
        if found is None:
            self._in_vain.add(like)
        return found

    def _earliest(
        self, gang: Gang, within: Gang, otherwise: int | None, booked: Sequence[Booked], kept: Mapping[str, Kept],
        admitted: Mapping[str, Gang | Reason],
    ) -> TakenBack | None:  # fmt: skip
        moving = {
            name: self._lenders.covered(other) for name in kept
            if name != gang.name and self._lenders.sure(name) and not self._lenders.urgent(name)
            and isinstance(other := admitted.get(name), Gang) and not self._windows.of(other)
        }  # fmt: skip
        self._kept = kept
        pools = [self._availability.pool(member.demand.filter) for member in within.members]
        places = {slot.place for pool in pools for slot in pool.slots}
        length = microseconds(gang.seconds) + TURNOVER
        others = [(self._stands(name), one) for name, one in kept.items() if name != gang.name]
        firm = [one for stands, one in others if stands]
        lenders = self._lenders.lenders(within, places, self._helps(within, firm, length))
        movable = any(seat.slot.place in places for stands, one in others if not stands for seat in one.seats)
        backs = [0] if movable else [(each.back - self._snapshot.now) // MICROSECOND for each in lenders]
        if not backs or (otherwise is not None and min(backs) + LEAST_STEP > otherwise):
            return None
        self._looked += 1
        found = self._fewest(within, lenders, booked, firm, length, otherwise)
        moved: dict[str, Kept] = {}
        if moving and (found is None or found.start > min(backs) + LEAST_STEP):
            # What was promised to others within their quotas stands by its time, not by its seats.
            stays = [
                one for name, one in kept.items() if name != gang.name and self._stands(name) and name not in moving
            ]
            lenders = self._lenders.lenders(within, places, self._helps(within, stays, length))
            until = otherwise if found is None else found.start
            sooner = self._fewest(within, lenders, booked, stays, length, until)
            seated = None if sooner is None else self._reseated(within, sooner, moving, booked, stays, length)
            if sooner is not None and seated is not None:
                found, moved = sooner, seated
        if found is None:
            return None
        for lender in found.lenders:
            self._lenders.ask(lender)
        return TakenBack(
            found.start,
            self._here(found.seats),
            tuple(Victim(hold, lender.at, gang) for lender in found.lenders for hold in lender.holds),
            {name: one._replace(seats=self._here(one.seats)) for name, one in moved.items()},
        )

    def _here(self, seats: Sequence[Seat]) -> list[Seat]:
        """The seats, on the slots of this cycle."""
        return [seat._replace(slot=self._availability.slot(*seat.slot.place)) for seat in seats]

    def _fewest(
        self, gang: Gang, lenders: Sequence[Lender], booked: Sequence[Booked], firm: Sequence[Kept], length: int,
        otherwise: int | None,
    ) -> _Sooner | None:  # fmt: skip
        """The fewest of the cheapest lenders that suffice for about as soon a start as all of them together; None where
        that is not clearly sooner than `otherwise`."""
        best = self._search(gang, lenders, booked, firm, length)
        if best is None or (otherwise is not None and best[0] + LEAST_STEP > otherwise):
            return None
        soon = best[0] + LEAST_STEP if otherwise is None else min(best[0] + LEAST_STEP, otherwise - LEAST_STEP)
        low, high = 0, len(lenders)
        while low < high:
            middle = (low + high) // 2
            found = self._search(gang, lenders[:middle], booked, firm, length)
            if found is not None and found[0] <= soon:
                high, best = middle, found
            else:
                low = middle + 1
        start, seats, there = best
        return _Sooner(start, seats, self._needed(there, seats, start, length, lenders[:low]))

    def _reseated(
        self, gang: Gang, sooner: _Sooner, moving: Mapping[str, Gang], booked: Sequence[Booked], firm: Sequence[Kept],
        length: int,
    ) -> dict[str, Kept] | None:  # fmt: skip
        """Other seats for those who are promised what the gang would take, no later; None where there are none."""
        found = self._search(gang, sooner.lenders, booked, firm, length)
        if found is None or found[0] > sooner.start:
            return None
        there = found[2]
        for slot, memory, compute in sooner.seats:
            mine = there.slot(*slot.place)
            free = mine.free(sooner.start, length)
            if free[0] < memory or free[1] < compute:
                return None
            there.reserve(mine, sooner.start, length, memory, compute, gang.name)
        moved = {}
        for name, other in sorted(moving.items(), key=lambda each: (self._kept[each[0]].start, each[0])):
            one = self._kept[name]
            if self._has_room(there, one, name):
                continue
            again = earliest(there, other, one.end - one.start, {})
            if again is None or again[0] > one.start:
                return None
            moved[name] = new = Kept(again[0], again[0] + one.end - one.start, again[1])
            self._has_room(there, new, name)
        return moved

    def _has_room(self, there: Availability, one: Kept, gang: str) -> bool:
        """Whether the seats are free there; then they are kept."""
        start, end, seats = one
        mine = [(there.slot(*slot.place), memory, compute) for slot, memory, compute in seats]
        for count, (slot, memory, compute) in enumerate(mine):
            free = slot.free(start, end - start)
            if free[0] < memory or free[1] < compute:
                for done in mine[:count]:
                    there.lift(done[0], start, end - start, done[1], done[2], gang)
                return False
            there.reserve(slot, start, end - start, memory, compute, gang)
        return True

    def _helps(self, gang: Gang, firm: Sequence[Kept], length: int) -> Callable[[Lender], bool]:
        """Whether a lender has something of which a member could have its share when it comes back, for so long: it has
        not where that was promised to others meanwhile."""
        demand, timelines = gang.members[0].demand, dict[DevicePlace, FreeTimeline]()
        for start, end, seats in firm:
            for slot, memory, compute in seats:
                if slot.place not in timelines:
                    timelines[slot.place] = FreeTimeline(slot.device.memory_bytes, FULL_COMPUTE, ())
                timelines[slot.place].take(start, end - start, memory, compute)

        def fits(hold: Hold, back: int) -> bool:
            timeline = timelines.get((hold.node, hold.device))
            if timeline is None:
                return True
            memory, compute = timeline.free(back, length)
            wanted = fit.share_of(demand, self._availability.slot(hold.node, hold.device).device.memory_bytes)
            return wanted[0] <= memory and wanted[1] <= compute

        def helps(lender: Lender) -> bool:
            back = (lender.back - self._snapshot.now) // MICROSECOND
            return any(fits(hold, back) for hold in lender.holds)

        return helps

    def _stands(self, gang: str) -> bool:
        """Whether its promise moves for no quota."""
        return self._lenders.sure(gang) or self._lenders.urgent(gang)

    def _search(
        self, gang: Gang, lenders: Sequence[Lender], booked: Sequence[Booked], firm: Sequence[Kept], length: int
    ) -> tuple[int, list[Seat], Availability] | None:
        """The earliest start if these yield, its seats, and what is free then."""
        back = {hold.partition: lender.back for lender in lenders for hold in lender.holds}
        holds = tuple(
            replace(hold, returns_at=min(hold.returns_at, back[hold.partition])) if hold.partition in back else hold
            for hold in self._snapshot.holds
        )
        there = Availability(replace(self._snapshot, holds=holds))
        for slot, taken, memory, compute in booked:
            there.take(there.slot(*slot.place), taken, memory, compute)
        for start, end, seats in firm:
            for seat in seats:
                slot = there.slot(*seat.slot.place)
                there.reserve(slot, start, end - start, seat.memory, seat.compute, gang.name)
        self._windows.copied(there, gang)
        seats_now = assign(there, gang, 0, length)
        if seats_now is not None:
            return 0, seats_now, there
        found = earliest(there, gang, length, {})
        return None if found is None else (*found, there)

    def _needed(
        self, there: Availability, seats: Sequence[Seat], start: int, length: int, lenders: Sequence[Lender]
    ) -> list[Lender]:
        """Those without whom the seats could not be had: the dearest are let off first."""
        for seat in seats:
            there.reserve(seat.slot, start, length, seat.memory, seat.compute, "")
        slots = {seat.slot.place: seat.slot for seat in seats}
        needed = []
        for lender in reversed(lenders):
            late = [hold for hold in lender.holds if (hold.node, hold.device) in slots]
            for hold in late:
                self._hold_on(slots[hold.node, hold.device].timeline.take, hold, lender, 1)
            if any(min(slot.free(start, length)) < 0 for slot in slots.values()):
                needed.append(lender)
                for hold in late:
                    self._hold_on(slots[hold.node, hold.device].timeline.take, hold, lender, -1)
        return needed

    def _hold_on(self, take: Callable[[int, int, int, int], None], hold: Hold, lender: Lender, sign: int) -> None:
        back = (lender.back - self._snapshot.now) // MICROSECOND
        end = (hold.returns_at - self._snapshot.now) // MICROSECOND
        take(back, end - back, sign * hold.memory_bytes, sign * hold.compute)


def spared(snapshot: Snapshot) -> Iterator[Key]:
    """Partitions that were to be taken back for a gang which waits no longer, and that were not asked for yet. Not
    those on which another gang counts that was promised its start since."""
    left = []
    for hold in snapshot.holds:
        if hold.returning is None or hold.partition is None or hold.returning.at <= snapshot.now:
            continue
        left.append(hold)
    if not left:
        return
    waiting = {gang.name for gang in snapshot.pending}
    counted = _counted_on(snapshot)
    # A job yields with all that it has, or with nothing.
    needed = {
        hold.job for hold in left
        if any(by < (hold.kept_until or hold.returns_at) for by in counted.get((hold.node, hold.device), ()))
    }  # fmt: skip
    for hold in left:
        if hold.returning and hold.partition and hold.returning.gang not in waiting and hold.job not in needed:
            yield hold.partition


def _counted_on(snapshot: Snapshot) -> dict[DevicePlace, list[datetime]]:
    """By when devices are promised."""
    found: dict[DevicePlace, list[datetime]] = {}
    for gang in snapshot.pending:
        for promise in (member.promise for member in gang.members):
            if promise is not None:
                found.setdefault((promise.node, promise.device), []).append(promise.start_by)
    return found
