"""The policies of a cluster with queues: who goes first by what was used before, and what limits hold back.

Order: the rest of a gang that is bound in part; urgent bands; whoever has a promise, by its time; then band, quota,
use by weight down the tree, age.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import NamedTuple

from cumulus.resources.device import FULL_COMPUTE, counted_share
from cumulus.resources.placement import Placement
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.resources.reasons import SchedulingReason
from cumulus.scheduling import fit
from cumulus.scheduling.claim import Demand
from cumulus.scheduling.fit import Reason
from cumulus.scheduling.policy import AdmitAll, Both, CycleGate, Policies, TakenShare
from cumulus.scheduling.queues import Book, Cap, Rules, Standing, matches, placement_of
from cumulus.scheduling.quota import TakeBackQuota
from cumulus.scheduling.snapshot import Gang, Snapshot

PROMISES = 64
"""Jobs that hold a promise at once, at most: each is looked at first in every cycle."""

_NEVER = datetime.max.replace(tzinfo=UTC)


def with_queues(policies: Policies, book: Book) -> Policies:
    """The policies of a server that has queues; the same ones where there is none."""
    if not book.tree:
        return policies
    admission = Both(policies.admission, QueueLimits(book))
    return replace(
        policies, order=FairOrder(book), admission=admission, preemption=TakeBackQuota(book), promises=PROMISES,
        lasts=book.lasts, note=book.note,
    )  # fmt: skip


@dataclass(frozen=True)
class FairOrder:
    """Who used less goes first."""

    book: Book

    def arrange(self, snapshot: Snapshot) -> Sequence[Gang]:
        # There may be ten thousand: each has an index of its rank and a figure, and no tuple that is compared.
        pending = sorted(snapshot.pending, key=_NAME)
        pending.sort(key=_SINCE)
        ranks, rank_of, used_of = self._placed(pending, snapshot)
        order = sorted(range(len(pending)), key=used_of.__getitem__)
        _sort_by_rank(order, ranks, rank_of)
        if self.book.tree.has_quotas:
            self._put_within_quota_first(pending, order, ranks, rank_of, snapshot)
            _sort_by_rank(order, ranks, rank_of)
        return [pending[index] for index in order]

    def _placed(self, pending: Sequence[Gang], snapshot: Snapshot) -> tuple[list[_Rank], list[int], list[float]]:
        """Ranks, and for each gang, by age, the index of its own and the use of its user by then."""
        standings, tree = self.book.standings(snapshot), self.book.tree
        whole, largest = standings.whole, _largest(snapshot)
        ranks: list[_Rank] = []
        rank_of: list[int] = []
        used_of: list[float] = []
        groups: dict[tuple[str, str, int], _Group] = {}
        shares: dict[int, float] = {}
        for gang in pending:
            group = groups.get((gang.queue, gang.user, gang.priority))
            if group is None:
                queue = gang.queue or DEFAULT_QUEUE
                band, urgent = tree.rules(queue).band(gang.priority)
                *of_queues, used = standings.ratios(queue, gang.user)
                group = groups[gang.queue, gang.user, gang.priority] = _Group(len(ranks), used, urgent)
                ranks.append((1 if urgent else 2, _NEVER, -band, True, tuple(of_queues)))
            rank = group.rank
            if gang.started:
                rank = len(ranks)
                ranks.append((0, *ranks[group.rank][1:]))
            elif gang.promised is not None and not group.urgent:
                rank = len(ranks)
                ranks.append((2, gang.promised, *ranks[group.rank][2:]))
            rank_of.append(rank)
            used_of.append(group.used)
            demand = gang.members[0].demand
            share = shares.get(id(demand))
            if share is None:
                thousandths = counted_share(*fit.share_of(demand, largest), largest)
                share = shares[id(demand)] = thousandths / FULL_COMPUTE / whole
            # A user's next job stands as if this one had its lease: two users with many jobs take turns.
            group.used += share * len(gang.members) * gang.seconds
        return ranks, rank_of, used_of

    def _put_within_quota_first(
        self, pending: Sequence[Gang], order: Sequence[int], ranks: list[_Rank], rank_of: list[int], snapshot: Snapshot
    ) -> None:
        """Give those a rank first in their band that fit into what their queue is sure of and does not hold yet."""
        standings, largest = self.book.standings(snapshot), _largest(snapshot)
        left: dict[str, int] = {}
        within: dict[int, int] = {}
        shares: dict[int, int] = {}
        for index in order:
            gang = pending[index]
            rules = standings.tree.owner(gang.queue or DEFAULT_QUEUE)
            if rules is None:
                continue
            if rules.name not in left:
                held = standings.queue(rules.name).held
                left[rules.name] = sum(max(0, cap.thousandths - cap.of(held)) for cap in rules.quota)
            share = 0
            for member in gang.members:
                demand = member.demand
                if id(demand) not in shares:
                    shares[id(demand)] = counted_share(*fit.share_of(demand, largest), largest)
                share += shares[id(demand)]
            if share <= left[rules.name]:
                left[rules.name] -= share
                old = rank_of[index]
                if old not in within:
                    within[old] = len(ranks)
                    ranks.append((*ranks[old][:3], False, ranks[old][4]))
                rank_of[index] = within[old]


_Rank = tuple[int, datetime, int, bool, tuple[float, ...]]
"""What decides first: started or urgent, the promise, the band, whether beyond quota, use of the queues by weight."""
_NAME, _SINCE = attrgetter("name"), attrgetter("since")


@dataclass(slots=True)
class _Group:
    """The jobs of one user in one queue, of one priority."""

    rank: int
    used: float
    """Of its user, with what waits before the next job."""
    urgent: bool


def _sort_by_rank(order: list[int], ranks: Sequence[_Rank], rank_of: Sequence[int]) -> None:
    """Gangs of one rank stay in the order that they have."""
    numbers = {rank: number for number, rank in enumerate(sorted(set(ranks)))}
    number_of = [numbers[rank] for rank in ranks]
    keys = [number_of[rank] for rank in rank_of]
    order.sort(key=keys.__getitem__)


def _largest(snapshot: Snapshot) -> int:
    """The memory of the largest device."""
    return max((device.memory_bytes for node in snapshot.nodes for device in node.devices), default=1)


@dataclass(frozen=True)
class QueueLimits:
    """A queue's hours, what it and its users may hold at once, and whether its jobs are packed or spread."""

    book: Book

    def begin(self, snapshot: Snapshot) -> CycleGate:
        tree = self.book.tree
        known = all(tree.has(queue or DEFAULT_QUEUE) for queue in {gang.queue for gang in snapshot.pending})
        return AdmitAll() if known and tree.admits_all else _Limits(self.book, snapshot)


class _Limit(NamedTuple):
    """What one queue, or one user of it, may hold at once."""

    standing: Standing
    """With what this cycle has given."""
    whose: str
    caps: tuple[Cap, ...]
    jobs: int | None


class _Limits:
    def __init__(self, book: Book, snapshot: Snapshot) -> None:
        self._tree = book.tree
        self._standings = book.standings(snapshot)
        self._counted: dict[object, Standing] = {}
        self._of_place: dict[tuple[str, str], Sequence[_Limit]] = {}
        self._known: dict[tuple[int, int, str], tuple[Demand, int]] = {}
        """What gangs of equal members need, by their demand, number and class: most gangs are alike."""
        self._now = snapshot.now
        self._models = sorted({(d.name, d.memory_bytes) for node in snapshot.nodes for d in node.devices})
        self._free: set[tuple[str, str]] = set()
        """Queues and users whom nothing holds back."""
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
        place = (gang.queue, gang.user)
        if place in self._free:
            return gang
        queue = gang.queue or DEFAULT_QUEUE
        if not self._tree.has(queue):
            return Reason(SchedulingReason.NO_QUEUE, f"there is no queue {queue}")
        path = self._tree.path(queue)
        if not any(rules.restricts for rules in path):
            self._free.add(place)
            return gang
        closed = self._hours(queue, path)
        if closed is not None:
            return closed
        full: Reason | None = None
        exhausted: dict[str, Reason] = {}
        never: dict[str, Reason] = {}
        for limit in self._limits(place):
            held, jobs = limit.standing, limit.jobs
            if gang.job and jobs is not None and gang.job not in held.jobs and len(held.jobs) >= jobs:
                what = f"{jobs} job{'s' if jobs > 1 else ''}"
                said = f"{limit.whose} may have shares for {what} at once, and has them or is promised them"
                full = full or Reason(SchedulingReason.QUEUE_LIMIT, said)
            for cap in limit.caps:
                left, needed = cap.thousandths - cap.of(held.held), self._needed(gang, cap.glob)
                if needed > left:
                    reason = exhausted.setdefault(cap.glob, _over(cap, left, needed, limit.whose))
                    if needed > cap.thousandths:
                        never.setdefault(cap.glob, reason)
        if full is not None:
            # Whoever is over a limit for ever need not wait to be told until others have ended.
            least = self._narrow(gang, never) if never else gang
            return least if isinstance(least, Reason) else full
        return self._narrow(gang, exhausted) if exhausted else gang

    def take(self, gang: Gang, shares: Sequence[TakenShare]) -> None:
        place = (gang.queue, gang.user)
        if place in self._free:
            return
        for limit in self._limits(place):
            for device, memory, compute in shares:
                limit.standing.held[device.name] += counted_share(memory, compute, device.memory_bytes)
            if gang.job:
                limit.standing.jobs.add(gang.job)

    def _hours(self, queue: str, path: Iterable[Rules]) -> Reason | None:
        if queue not in self._closed:
            opens = max((at for rules in path if (at := rules.opens_at(self._now)) is not None), default=None)
            self._closed[queue] = None
            if opens is not None:
                said = f"its jobs start from {fit.utc(opens)} on"
                self._closed[queue] = Reason(SchedulingReason.QUEUE_CLOSED, said)
        return self._closed[queue]

    def _limits(self, place: tuple[str, str]) -> Sequence[_Limit]:
        """Those for a queue and a user: of the queues from the top down, and of the user."""
        found = self._of_place.get(place)
        if found is None:
            queue, user = place[0] or DEFAULT_QUEUE, place[1]
            path = self._tree.path(queue)
            *standings, of_user = self._standings.copied(queue, user, self._counted)
            of_queues = (
                _Limit(standing, f"the queue {rules.name}", rules.limit, rules.max_jobs)
                for rules, standing in zip(path, standings, strict=True)
            )
            own = path[-1]
            whose = f"a user of the queue {own.name}"
            found = (*of_queues, _Limit(of_user, whose, own.user_limit, own.user_jobs))
            self._of_place[place] = found
        return found

    def _needed(self, gang: Gang, glob: str) -> int:
        """The most that the gang could take of devices of this class, in thousandths."""
        demand = gang.members[0].demand
        if any(member.demand is not demand for member in gang.members):
            return self._most(gang, glob)
        key = (id(demand), len(gang.members), glob)
        found = self._known.get(key)
        if found is None:
            # With the demand: its identity is nobody else's as long as it is there.
            found = self._known[key] = (demand, self._most(gang, glob))
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


def _over(cap: Cap, left: int, needed: int, whose: str) -> Reason:
    """Why a gang cannot be on devices of this class."""
    of = "" if cap.glob == "*" else f" of {cap.glob}"
    return Reason(
        SchedulingReason.QUEUE_LIMIT,
        f"{whose} may hold {cap.thousandths / 1000:g} devices{of}, of which {max(0, left) / 1000:g} are left; "
        f"this needs {needed / 1000:g}",
    )
