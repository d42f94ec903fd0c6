"""What queues and their users may hold at once, and when jobs of a queue may start.

A cycle asks this of ten thousand gangs, most of which are alike. So what is left of each limit is one number that is
counted down, and what gangs of one demand need of the limits on their path is found once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cumulus.resources.device import counted_share
from cumulus.resources.placement import Placement
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.resources.reasons import SchedulingReason
from cumulus.scheduling import fit
from cumulus.scheduling.claim import Demand
from cumulus.scheduling.fit import Reason
from cumulus.scheduling.policy import AdmitAll, CycleGate, TakenShare
from cumulus.scheduling.queues import Book, Cap, Rules, Standing, matches, placement_of
from cumulus.scheduling.snapshot import Gang, Snapshot


@dataclass(frozen=True)
class QueueLimits:
    """A queue's hours, what it and its users may hold at once, and whether its jobs are packed or spread."""

    book: Book

    def begin(self, snapshot: Snapshot) -> CycleGate:
        tree = self.book.tree
        known = all(tree.has(queue or DEFAULT_QUEUE) for queue in {gang.queue for gang in snapshot.pending})
        return AdmitAll() if known and tree.admits_all else _Limits(self.book, snapshot)


@dataclass(slots=True)
class _Room:
    """What one limit allows on devices of one class, and what is left of it in this cycle."""

    cap: Cap
    left: int


class _Limit:
    """What one queue, or one user of it, may hold at once."""

    __slots__ = ("jobs", "most_jobs", "rooms", "whose")

    def __init__(self, standing: Standing, whose: str, caps: Iterable[Cap], most_jobs: int | None) -> None:
        self.whose = whose
        self.rooms = [_Room(cap, cap.thousandths - cap.of(standing.held)) for cap in caps]
        self.most_jobs = most_jobs
        self.jobs = set() if most_jobs is None else set(standing.jobs)
        """With those of this cycle. Empty where nobody asks."""

    def keeps_out(self, job: str) -> bool:
        """Whether it would be one job too many."""
        return bool(job) and self.most_jobs is not None and job not in self.jobs and len(self.jobs) >= self.most_jobs


_Kind = tuple[int, int]
"""The identity of a demand, and how many members have it."""


class _Place:
    """One user in one queue: the limits of the queues from the top down, and of the user."""

    __slots__ = ("counts_jobs", "globs", "limits", "named", "refused", "rooms")

    def __init__(self, limits: Sequence[_Limit]) -> None:
        self.limits = limits
        self.rooms = [room for limit in limits for room in limit.rooms]
        self.globs = tuple(room.cap.glob for room in self.rooms)
        self.counts_jobs = any(limit.most_jobs is not None for limit in limits)
        self.named: dict[str, list[_Room]] = {}
        """Rooms in which devices of a name count."""
        self.refused: dict[_Kind, tuple[int, Reason]] = {}
        """The last refusal, and what was left in all by then. It only gets less, so as much left is the same left."""

    def count(self, name: str, share: int) -> None:
        rooms = self.named.get(name)
        if rooms is None:
            rooms = self.named[name] = [room for room in self.rooms if matches(name, room.cap.glob)]
        for room in rooms:
            room.left -= share


class _Limits:
    """Those of one cycle."""

    def __init__(self, book: Book, snapshot: Snapshot) -> None:
        self._tree = book.tree
        self._standings = book.standings(snapshot)
        self._places: dict[tuple[str, str], _Place | Reason | None] = {}
        """By queue and user: their limits; why nobody may start; None where nothing holds them back."""
        self._limits: dict[object, _Limit] = {}
        self._known: dict[tuple[int, int, tuple[str, ...]], tuple[Demand, list[int]]] = {}
        """What gangs of equal members need, by their demand, number and classes: most gangs are alike."""
        self._now = snapshot.now
        self._models = sorted({(d.name, d.memory_bytes) for node in snapshot.nodes for d in node.devices})
        self._narrowed: dict[tuple[int, tuple[str, ...]], Demand] = {}
        self._closed: dict[str, Reason | None] = {}
        self._spreads: dict[str, bool] = {}

    def admit(self, gang: Gang) -> Gang | Reason:
        admitted = self._admit(gang)
        if gang.spread is None and not isinstance(admitted, Reason) and self._spread(gang.queue):
            return replace(admitted, spread=True)
        return admitted

    def _spread(self, queue: str) -> bool:
        """Whether jobs of the queue that say nothing themselves are spread."""
        found = self._spreads.get(queue)
        if found is None:
            said = placement_of(self._tree.path(queue or DEFAULT_QUEUE))
            found = self._spreads[queue] = said is not None and said[0] is Placement.SPREAD
        return found

    def _admit(self, gang: Gang) -> Gang | Reason:
        place = self._place(gang)
        if place is None or isinstance(place, Reason):
            return place or gang
        kind = _kind(gang)
        needed = self._needed(gang, kind, place.globs)
        if not place.counts_jobs:
            for room, amount in zip(place.rooms, needed, strict=True):
                if amount > room.left:
                    break
            else:
                return gang
            if kind is not None:
                left = sum([room.left for room in place.rooms])
                known = place.refused.get(kind)
                if known is None or known[0] != left:
                    refused = self._over(gang, place, needed)
                    if not isinstance(refused, Reason):
                        return refused
                    known = place.refused[kind] = left, refused
                return known[1]
        return self._over(gang, place, needed)

    def _over(self, gang: Gang, place: _Place, needed: Sequence[int]) -> Gang | Reason:
        """The gang, kept to where it is over no limit; why there is no such place."""
        full: Reason | None = None
        exhausted: dict[str, Reason] = {}
        never: dict[str, Reason] = {}
        amounts = iter(needed)
        for limit in place.limits:
            if limit.keeps_out(gang.job):
                what = f"{limit.most_jobs} job{'s' if (limit.most_jobs or 0) > 1 else ''}"
                said = f"{limit.whose} may have shares for {what} at once, and has them or is promised them"
                full = full or Reason(SchedulingReason.QUEUE_LIMIT, said)
            for room, amount in zip(limit.rooms, amounts, strict=False):
                if amount > room.left:
                    cap = room.cap
                    reason = exhausted.setdefault(cap.glob, _over(cap, room.left, amount, limit.whose))
                    if amount > cap.thousandths:
                        never.setdefault(cap.glob, reason)
        if full is not None:
            # Whoever is over a limit for ever need not wait to be told until others have ended.
            least = self._narrow(gang, never) if never else gang
            return least if isinstance(least, Reason) else full
        return self._narrow(gang, exhausted) if exhausted else gang

    def take(self, gang: Gang, shares: Sequence[TakenShare]) -> None:
        place = self._place(gang)
        if place is None or isinstance(place, Reason):
            return
        for name, share in shares:
            place.count(name, share)
        if gang.job and place.counts_jobs:
            for limit in place.limits:
                limit.jobs.add(gang.job)

    def _place(self, gang: Gang) -> _Place | Reason | None:
        key = (gang.queue, gang.user)
        try:
            return self._places[key]
        except KeyError:
            found = self._places[key] = self._find_place(gang.queue or DEFAULT_QUEUE, gang.user)
            return found

    def _find_place(self, queue: str, user: str) -> _Place | Reason | None:
        if not self._tree.has(queue):
            return Reason(SchedulingReason.NO_QUEUE, f"there is no queue {queue}")
        path = self._tree.path(queue)
        if not any(rules.restricts for rules in path):
            return None
        return self._hours(queue, path) or _Place(self._limits_of(queue, user, path))

    def _hours(self, queue: str, path: Iterable[Rules]) -> Reason | None:
        if queue not in self._closed:
            opens = max((at for rules in path if (at := rules.opens_at(self._now)) is not None), default=None)
            self._closed[queue] = None
            if opens is not None:
                said = f"its jobs start from {fit.utc(opens)} on"
                self._closed[queue] = Reason(SchedulingReason.QUEUE_CLOSED, said)
        return self._closed[queue]

    def _limits_of(self, queue: str, user: str, path: Sequence[Rules]) -> Sequence[_Limit]:
        """Those of the queues from the top down, and of the user. Each is there once, whoever asks."""
        for rules in path:
            if rules.name not in self._limits:
                whose = f"the queue {rules.name}"
                standing = self._standings.queue(rules.name)
                self._limits[rules.name] = _Limit(standing, whose, rules.limit, rules.max_jobs)
        own, whose = path[-1], f"a user of the queue {path[-1].name}"
        of_user = _Limit(self._standings.user(queue, user), whose, own.user_limit, own.user_jobs)
        return [*(self._limits[rules.name] for rules in path), self._limits.setdefault((queue, user), of_user)]

    def _needed(self, gang: Gang, kind: _Kind | None, globs: tuple[str, ...]) -> list[int]:
        """The most that the gang could take of devices of each class, in thousandths."""
        if kind is None:
            return [self._most(gang, glob) for glob in globs]
        found = self._known.get((*kind, globs))
        if found is None:
            # With the demand: its identity is nobody else's as long as it is there.
            needed = [self._most(gang, glob) for glob in globs]
            found = self._known[(*kind, globs)] = (gang.members[0].demand, needed)
        return found[1]

    def _most(self, gang: Gang, glob: str) -> int:
        return max(
            (
                sum(
                    counted_share(*fit.share_of(member.demand, memory), memory)
                    for member in gang.members
                    if not member.demand.filter.name or matches(name, member.demand.filter.name)
                )
                for name, memory in self._models
                if matches(name, glob)
            ),
            default=0,
        )

    def _narrow(self, gang: Gang, exhausted: dict[str, Reason]) -> Gang | Reason:
        """The gang, kept off the classes of which no more may be had."""
        without = tuple(sorted(exhausted))
        usable = [
            name
            for name, _ in self._models
            if not any(matches(name, glob) for glob in without)
            and all(not m.demand.filter.name or matches(name, m.demand.filter.name) for m in gang.members)
        ]
        if not usable:
            return exhausted[without[0]]
        members = []
        for member in gang.members:
            known = self._narrowed.get((id(member.demand), without))
            if known is None:
                known = replace(member.demand, filter=replace(member.demand.filter, without=without))
                self._narrowed[id(member.demand), without] = known
            members.append(replace(member, demand=known))
        return replace(gang, members=tuple(members))


def _kind(gang: Gang) -> _Kind | None:
    """What makes a gang like another: equal demands are one object, as a rule. None where members differ."""
    demand = gang.members[0].demand
    if len(gang.members) > 1 and any(member.demand is not demand for member in gang.members):
        return None
    return id(demand), len(gang.members)


def _over(cap: Cap, left: int, needed: int, whose: str) -> Reason:
    """Why a gang cannot be on devices of this class."""
    of = "" if cap.glob == "*" else f" of {cap.glob}"
    return Reason(
        SchedulingReason.QUEUE_LIMIT,
        f"{whose} may hold {cap.thousandths / 1000:g} devices{of}, of which {max(0, left) / 1000:g} are left; "
        f"this needs {needed / 1000:g}",
    )
