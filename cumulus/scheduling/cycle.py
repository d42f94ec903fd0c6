"""One placement cycle: a snapshot in, bindings and the gangs that go on waiting out. Pure; `now` is the snapshot's.

Controllers write the bindings; `explain` says why a gang waits.

The promise
-----------
`explain` promises a start S ("by S at the latest") to a gang G of equal members when no gang before it in the queue
could use a device that matches G, and every share it waits for is that of a lease whose end is known. G is bound by
the first cycle at or after S, and there is one at S, where a lease ends, as long as until then

1. nothing joins the queue before G: no work of a higher priority, and no run that was lost and so keeps its place;
2. leases are granted in the moment in which they are bound, and their shares are free again at their ends; none is made
   on a node by hand. (What a grant takes, a few hundredths of a second, a gang fitted in to end just at S adds to S.)
3. the nodes and devices that take work stay the same.

Proof. Let R be the seats kept for G from S for its length. We show that in each cycle until S, when it is G's turn, R
could still be kept, so that the cycle finds for G a start no later than S and keeps that.

- The first cycle found R. In any cycle, gangs after G are bound only where `assign` finds room beside its reservation:
  not in R, while R lasts. In the next cycle what they bound is a hold with the same end.
- Gangs before G, or their reservations, are on no device that matches G, so on none of R.
- Other holds only end, by (2) when that was counted on; so what is free of R's devices from S on never shrinks.
- G's search is exact. `assign` finds seats for equal members whenever there are any (Gale and Ryser, see `uniform`).
  A start may be put off only to a moment at which something becomes free, and all of these are tried, or bisected: on
  G's devices nothing is reserved before its turn, so what is free there only grows, and bisection is exact.

At S the seats are free from now on, and `bind`, which asks the same exact `assign`, binds G. Where a reservation moves
to other seats or an earlier start, the same holds of those. QED.

Without the premises `explain` says "is expected": for gangs ahead may start elsewhere, or leave, and free seats earlier
or later than was planned; and a gang of different members is placed by a search that is cut short.

Promises that are kept
----------------------
Where there are queues, who goes first changes with what was used, so (1) does not hold. There a promise is written
down: the time, and the seats. `promises` (see there) puts all of them back before anybody else is considered, urgent
bands apart; each is lifted only for its own gang, which takes what is better or puts it back. So a promise given stands
whatever the order says later, under (2) and (3) alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from cumulus.resources.enforcement import Enforcement
from cumulus.resources.key import Key
from cumulus.resources.reasons import SchedulingReason
from cumulus.scheduling.assign import Seat, assign
from cumulus.scheduling.availability import Availability
from cumulus.scheduling.claim import Filter
from cumulus.scheduling.equivalence import KnownMisfits
from cumulus.scheduling.fit import Reason
from cumulus.scheduling.policy import DEFAULT, Policies, TakenShare
from cumulus.scheduling.promises import TURNOVER, PromiseChange, Promises
from cumulus.scheduling.reclaim import Booked, CycleReclaim, Victim
from cumulus.scheduling.snapshot import Gang, Member, Snapshot
from cumulus.scheduling.starts import NotBefore, earliest
from cumulus.scheduling.timeline import microseconds
from cumulus.scheduling.windows import Windows

RESERVATION_DEPTH = 8
"""Gangs with the same filters that get a reservation in one cycle. One would do against starvation; a few more
keep those next in line from being overtaken again and again."""

RESERVATION_WORK = 400_000
"""Once a cycle has looked at so many devices one by one, only the first gang of each kind still gets one."""

_Alone = tuple[int, float, tuple[int, ...]]
"""A demand's identity, seconds, and the windows that are held for it."""


class Binding(NamedTuple):
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
    queue: str = ""
    """The queue that the gang was submitted to."""
    share: int = 0
    """The larger part of memory and compute, in thousandths of the device."""


@dataclass(frozen=True, slots=True)
class ReservedShare:
    """A share that a reservation keeps for one member."""

    partition: Key
    node: str
    device: int
    memory_bytes: int
    compute: int


@dataclass(frozen=True, slots=True)
class BackfillReservation:
    """What is kept for a gang that waits: from `start`, when all leases in the way are over."""

    gang: str
    start: datetime
    seats: tuple[ReservedShare, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A gang that stays in the queue. `explain` tells why, node by node."""

    gang: Gang
    position: int
    """From 1, in the whole queue."""
    reservation: BackfillReservation | None
    """None where no ready node could hold it, or where it is too far back in the queue."""
    hopeless: bool
    """Known to fit on no ready node even with nothing else there."""
    not_admitted: Reason | None = None
    """Why its queue does not admit it, where that is so."""

    @property
    def reason(self) -> Reason:
        """A word and a sentence that stay the same while the gang waits, fit for a condition."""
        if self.not_admitted is not None:
            return self.not_admitted
        if self.hopeless:
            return Reason(SchedulingReason.NO_NODE_FITS, "no ready node could hold it even with nothing else there")
        return Reason(SchedulingReason.WAITING_FOR_SHARE, "waits until enough is free on nodes that match")


@dataclass(frozen=True, slots=True)
class CycleResult:
    """What to write, and who goes on waiting, in the order of the queue."""

    bindings: tuple[Binding, ...]
    refusals: tuple[Refusal, ...]
    victims: tuple[Victim, ...] = ()
    """Shares that are taken back for others. With the default policy there are none."""
    moved: tuple[PromiseChange, ...] = ()
    """Promises that were given, moved or withdrawn."""


def place(snapshot: Snapshot, policies: Policies = DEFAULT) -> CycleResult:
    """One cycle over the queue: each gang in turn is bound, or waits with a reservation, or only waits.

    EASY backfilling, with more than one reservation: a later gang is bound only where that delays no
    reservation, so that a stream of small ones never starves a large one (Lifka, "The ANL/IBM SP Scheduling
    System", 1995).
    """
    cycle = Cycle(snapshot, policies)
    for gang in cycle.queue:
        if not cycle.bind(gang):
            cycle.refuse(gang)
    return CycleResult(tuple(cycle.bindings), tuple(cycle.refusals), tuple(cycle.victims), tuple(cycle.promises.moved))


class Cycle:
    """One cycle in progress: `place` runs it to the end, `explain` as far as the gang asked for."""

    def __init__(self, snapshot: Snapshot, policies: Policies = DEFAULT) -> None:
        self.queue = tuple(policies.order.arrange(snapshot))
        """The gangs in the order in which they are to be considered."""
        self.availability = Availability(snapshot)
        self.windows = Windows(policies.windows, self.availability, snapshot.now)
        self.bindings: list[Binding] = []
        self.refusals: list[Refusal] = []
        self.victims: list[Victim] = []
        self.not_admitted: Reason | None = None
        """Why the gang that `bind` was last asked for is not admitted."""
        self._snapshot = snapshot
        self._policies = policies
        self._position = 0
        self._gate = policies.admission.begin(snapshot)
        self._narrowed: dict[str, Gang] = {}
        """Gangs that were admitted, and kept off some devices."""
        self._last_reserved: tuple[int, list[Seat]] = (0, [])
        self._bound: list[tuple[str, tuple[str, int]]] = []
        self._lenders = policies.preemption.begin(snapshot) if policies.promises else None
        self.promises = Promises(
            snapshot, self.availability, policies.promises, self._gate, self.windows, self._lenders
        )
        self._reclaim = None
        if self._lenders is not None:
            self._reclaim = CycleReclaim(snapshot, self.availability, self._lenders, self.windows)
        self._booked: list[Booked] = []
        self._alike: set[_Alone] = set()
        """Gangs of one whose like was refused: no more than a look for each of thousands that ask for the same."""
        self._settled: dict[_Alone, bool] = {}
        """Those of which enough have reservations already; whether they are hopeless."""
        self.misfits = KnownMisfits()
        """What did not fit so far: whatever asks for as much does not fit either."""
        self._hopeless = KnownMisfits()
        self._not_before: NotBefore = {}
        self._reserved: Counter[frozenset[Filter]] = Counter()

    def bind(self, gang: Gang) -> bool:
        """Bind the next gang of the queue if it fits now."""
        self._position += 1
        if gang.promised is not None and self._policies.promises:
            self.promises.put_back(self._taken(), self._earliest)
            with self.windows.lifted(gang):
                return self._bind_promised(gang)
        admitted = self._let_in(gang, self._gate.admit(gang))
        if admitted is None:
            return False
        with self.windows.lifted(gang):
            return self._bind(admitted)

    def _bind(self, gang: Gang) -> bool:
        # Where something is held for it, it learns nothing from others, nor they from it.
        apart = bool(self.windows.of(gang))
        alone = self._alone(gang)
        if alone in self._alike:
            return False
        length = microseconds(gang.seconds)
        refused = not apart and self.misfits.covers(gang, length)
        seats = None if refused else assign(self.availability, gang, 0, length)
        if seats is None:
            if not refused and not apart:
                self.misfits.add(gang, length)
            if alone is not None:
                self._alike.add(alone)
            return False
        self._gate.take(gang, self._take(gang, seats, length))
        return True

    def _let_in(self, gang: Gang, admitted: Gang | Reason) -> Gang | None:
        """The gang as it was admitted; None where it was not, and `not_admitted` says why."""
        if isinstance(admitted, Reason):
            self.not_admitted = admitted
            return None
        self.not_admitted = None
        if admitted is not gang:
            self._narrowed[gang.name] = admitted
        return admitted

    def _bind_promised(self, gang: Gang) -> bool:
        """As `bind`. What was kept for the gang is lifted, until `refuse` keeps something for it again. Others'
        promises stand around it, so nothing is learnt here for those who come later."""
        admitted = self._let_in(gang, self.promises.admitted[gang.name])
        if admitted is None:
            return False
        gang = admitted
        self.promises.lift(gang)
        self._not_before.clear()
        length = microseconds(gang.seconds)
        seats = assign(self.availability, gang, 0, length)
        if seats is None:
            return False
        self._take(gang, seats, length)
        self.promises.kept_word(gang)
        return True

    def _take(self, gang: Gang, seats: list[Seat], length: int) -> list[TakenShare]:
        length = _held(gang, length)
        shares = [seat.share for seat in seats]
        for member, seat, share in zip(gang.members, seats, shares, strict=True):
            self.availability.take(seat.slot, length, seat.memory, seat.compute)
            if member.demand.ports:
                self.availability.book_ports(seat.slot.node, 0, length, member.demand.ports, gang.name)
            self.bindings.append(_binding(gang, member, seat, share[1]))
        if self._lenders is not None:
            self._lenders.take(gang, shares)
            self._booked += [Booked(slot, length, memory, compute) for slot, memory, compute in seats]
        return shares

    def refuse(self, gang: Gang) -> Refusal:
        """Let the gang that `bind` was last asked for wait, with a reservation if few of its kind have one."""
        if self.not_admitted is not None:
            refusal = Refusal(gang, self._position, None, hopeless=False, not_admitted=self.not_admitted)
        else:
            with self.windows.lifted(gang):
                refusal = self._refuse(gang)
        self.refusals.append(refusal)
        return refusal

    def _refuse(self, gang: Gang) -> Refusal:
        asked = self.admitted(gang)
        if (back := self.take_back(gang)) is not None:
            return Refusal(gang, self._position, back, hopeless=False)
        if gang.promised is not None and self._policies.promises:
            self._reserved[_filters(gang)] += 1
            return Refusal(gang, self._position, self._keep(asked), hopeless=False)
        alone = self._alone(asked)
        if alone is not None and (known := self._settled.get(alone)) is not None:
            return Refusal(gang, self._position, None, known)
        reservation = None
        filters = _filters(asked)
        depth = RESERVATION_DEPTH if self.availability.work < RESERVATION_WORK else 1
        if self._reserved[filters] < depth and not self._hopeless.covers(asked, 0):
            reservation = self.reserve(asked)
            self._reserved[filters] += reservation is not None
            if reservation is not None and self._policies.promises:
                self.promises.give(asked, *self._last_reserved, self._taken())
        hopeless = self._hopeless.covers(asked, 0)
        if alone is not None and reservation is None and (hopeless or self._reserved[filters] >= depth):
            self._settled[alone] = hopeless
        return Refusal(gang, self._position, reservation, hopeless)

    def take_back(self, gang: Gang) -> BackfillReservation | None:
        """Keep for a gang that was refused what others give up for it; None where they need not, or nothing is sooner
        than by itself."""
        if self._reclaim is None or self._lenders is None:
            return None
        gang = self.admitted(gang)
        lifted = self.promises.lifted if gang.promised is not None else None

        def otherwise() -> int | None:
            if lifted is not None:
                return lifted
            found = self._earliest(gang, microseconds(gang.seconds) + TURNOVER)
            return None if found is None else found[0]

        with self.windows.lifted(gang):
            found = self._reclaim.find(gang, otherwise, self._booked, self.promises.kept, self.promises.admitted)
        if found is None or not self.promises.take_back(gang, found.start, found.seats, self._taken()):
            return None
        self.promises.reseat(found.moved)
        self.victims += found.victims
        return self._reservation(gang, found.start, found.seats)

    def _earliest(self, gang: Gang, length: int) -> tuple[int, list[Seat]] | None:
        return earliest(self.availability, gang, length, {} if self.windows.of(gang) else self._not_before)

    def _alone(self, gang: Gang) -> _Alone | None:
        """What makes a gang of one like another: equal demands are one object, as a rule. None for a larger gang."""
        if len(gang.members) > 1:
            return None
        return id(gang.members[0].demand), gang.seconds, self.windows.of(gang)

    def admitted(self, gang: Gang) -> Gang:
        """The gang as it was admitted: perhaps kept off some devices."""
        return self._narrowed.get(gang.name, gang)

    def reserve(self, gang: Gang) -> BackfillReservation | None:
        """Keep the earliest start that the gang can have; None where no ready node could ever hold it."""
        gang = self.admitted(gang)
        with self.windows.lifted(gang):
            return self._reserve(gang)

    def _reserve(self, gang: Gang) -> BackfillReservation | None:
        length = microseconds(gang.seconds) + (TURNOVER if self._policies.promises else 0)
        found = self._earliest(gang, length)
        if found is None:
            self._hopeless.add(gang, 0)
            return None
        start, seats = self._last_reserved = found
        length = _held(gang, length)
        for member, seat in zip(gang.members, seats, strict=True):
            self.availability.reserve(seat.slot, start, length, seat.memory, seat.compute, gang.name)
            if member.demand.ports:
                self.availability.book_ports(seat.slot.node, start, length, member.demand.ports, gang.name)
        return self._reservation(gang, start, seats)

    def _keep(self, gang: Gang) -> BackfillReservation | None:
        """What is kept for a gang that was promised a start and cannot have it yet."""
        moves = gang if self._lenders is None else self._lenders.covered(gang)
        kept = self.promises.keep(gang, self._earliest(moves, microseconds(gang.seconds) + TURNOVER))
        return None if kept is None else self._reservation(gang, kept.start, kept.seats)

    def _reservation(self, gang: Gang, start: int, seats: Sequence[Seat]) -> BackfillReservation:
        return BackfillReservation(
            gang=gang.name,
            start=self._snapshot.now + timedelta(microseconds=start),
            seats=tuple(
                ReservedShare(member.partition, *seat.slot.place, seat.memory, seat.compute)
                for member, seat in zip(gang.members, seats, strict=True)
            ),
        )

    def _taken(self) -> Sequence[tuple[str, tuple[str, int]]]:
        """Who was bound in this cycle, and where."""
        new = self.bindings[len(self._bound) :]
        self._bound += [(binding.gang, (binding.node, binding.device)) for binding in new]
        return self._bound


def _held(gang: Gang, length: int) -> int:
    """For how long it is counted on to hold the room that was found for `length`."""
    return length if gang.given_back_after is None else min(length, microseconds(gang.given_back_after))


def _filters(gang: Gang) -> frozenset[Filter]:
    return frozenset(member.demand.filter for member in gang.members)


def _binding(gang: Gang, member: Member, seat: Seat, share: int) -> Binding:
    device = seat.slot.device
    return Binding(
        partition=member.partition, uid=member.uid, gang=gang.name, node=seat.slot.node, device=device.index,
        device_name=device.name, memory_bytes=seat.memory, compute=seat.compute,
        enforcement=device.enforcement_of(seat.memory, seat.compute),
        queue=gang.queue, share=share,
    )  # fmt: skip
