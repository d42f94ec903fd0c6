"""The policies of a cluster with queues: who goes first by what was used before, and what limits hold back.

Order: the rest of a gang that is bound in part; urgent bands; whoever has a promise, by its time; then band, quota,
use by weight down the tree, age.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from cumulus.resources.device import FULL_COMPUTE
from cumulus.resources.placement import Placement
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.resources.reasons import SchedulingReason
from cumulus.scheduling import fit
from cumulus.scheduling.claim import Demand
from cumulus.scheduling.fit import Reason
from cumulus.scheduling.policy import Both, CycleGate, Policies, Taken
from cumulus.scheduling.queues import Book, Cap, Rules, Standing, Standings, placement_of
from cumulus.scheduling.quota import TakeBackQuota
from cumulus.scheduling.snapshot import Gang, Snapshot
from cumulus.scheduling.usage import share_of

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
        standings, tree = self.book.standings(snapshot), self.book.tree
        groups: dict[tuple[str, str, int], list[int]] = {}
        for index, gang in enumerate(snapshot.pending):
            groups.setdefault((gang.queue, gang.user, gang.priority), []).append(index)
        keys: list[tuple[object, ...]] = [()] * len(snapshot.pending)
        order: list[int] = []
        whole, largest = standings.whole, _largest(snapshot)
        shares: dict[int, float] = {}
        for (name, user, priority), members in groups.items():
            queue = name or DEFAULT_QUEUE
            band, urgent = tree.rules(queue).band(priority)
            *of_queues, used = standings.ratios(queue, user)
            path = tuple(of_queues)
            for gang, index in sorted(((snapshot.pending[i], i) for i in members), key=_by_age):
                first = 0 if gang.started else 1 if urgent else 2
                promised = gang.promised if first == 2 and gang.promised is not None else _NEVER
                keys[index] = (first, promised, -band, True, path, used, gang.since, gang.name)
                order.append(index)
                demand = gang.members[0].demand
                share = shares.get(id(demand))
                if share is None:
                    share = shares[id(demand)] = share_of(*fit.share_of(demand, largest), largest) / FULL_COMPUTE
                # A user's next job stands as if this one had its lease: two users with many jobs take turns.
                used += share * len(gang.members) * gang.seconds / whole
        if any(tree.rules(name).quota for name in tree.names):
            keys = _within_quota(keys, snapshot, standings)
        # Names are there once, so that two keys never tie. Most of a group is in order: less is compared.
        order.sort(key=keys.__getitem__)
        return [snapshot.pending[index] for index in order]


def _by_age(found: tuple[Gang, int]) -> tuple[datetime, str]:
    return found[0].since, found[0].name


def _largest(snapshot: Snapshot) -> int:
    """The memory of the largest device."""
    return max((device.memory_bytes for node in snapshot.nodes for device in node.devices), default=1)


def _within_quota(keys: list[tuple[object, ...]], snapshot: Snapshot, standings: Standings) -> list[tuple[object, ...]]:
    """The keys, with those first in their band that fit into what their queue is sure of and does not hold yet."""
    largest = _largest(snapshot)
    left: dict[str, int] = {}
    found = list(keys)
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        gang = snapshot.pending[index]
        queue = gang.queue or DEFAULT_QUEUE
        rules = next((r for r in reversed(standings.tree.path(queue)) if r.quota), None)
        if rules is None:
            continue
        if rules.name not in left:
            held = standings.queue(rules.name).held
            left[rules.name] = sum(max(0, cap.thousandths - cap.of(held)) for cap in rules.quota)
        share = sum(share_of(*fit.share_of(member.demand, largest), largest) for member in gang.members)
        if share <= left[rules.name]:
            left[rules.name] -= share
            key = keys[index]
            found[index] = (*key[:3], False, *key[4:])
    return found


@dataclass(frozen=True)
class QueueLimits:
    """A queue's hours, what it and its users may hold at once, and whether its jobs are packed or spread."""

    book: Book

    def begin(self, snapshot: Snapshot) -> CycleGate:
        return _Limits(self.book, snapshot)


class _Limits:
    def __init__(self, book: Book, snapshot: Snapshot) -> None:
        self._tree = book.tree
        self._standings = book.standings(snapshot)
        self._counted: dict[object, Standing] = {}
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
        exhausted: dict[str, Reason] = {}
        for standing, whose, caps, jobs in self._caps(queue, gang.user, path):
            if gang.job and jobs is not None and gang.job not in standing.jobs and len(standing.jobs) >= jobs:
                what = f"{jobs} job{'s' if jobs > 1 else ''}"
                return Reason(SchedulingReason.QUEUE_LIMIT, f"{whose} may have shares for {what} at once, and has them")
            for cap in caps:
                reason = self._over(gang, cap, standing, whose)
                if reason is not None:
                    exhausted.setdefault(cap.glob, reason)
        if not exhausted:
            return gang
        return self._narrow(gang, exhausted)

    def take(self, gang: Gang, shares: Sequence[Taken]) -> None:
        place = (gang.queue, gang.user)
        if place in self._free:
            return
        for standing in self._standings.copied(gang.queue or DEFAULT_QUEUE, gang.user, self._counted):
            for device, memory, compute in shares:
                standing.held[device.name] += share_of(memory, compute, device.memory_bytes)
            if gang.job:
                standing.jobs.add(gang.job)

    def _hours(self, queue: str, path: Iterable[Rules]) -> Reason | None:
        if queue not in self._closed:
            opens = max((at for rules in path if (at := rules.opens_at(self._now)) is not None), default=None)
            self._closed[queue] = None
            if opens is not None:
                said = f"its jobs start from {fit.utc(opens)} on"
                self._closed[queue] = Reason(SchedulingReason.QUEUE_CLOSED, said)
        return self._closed[queue]

    def _caps(
        self, queue: str, user: str, path: Sequence[Rules]
    ) -> Iterable[tuple[Standing, str, tuple[Cap, ...], int | None]]:
        *standings, of_user = self._standings.copied(queue, user, self._counted)
        for rules, standing in zip(path, standings, strict=True):
            yield standing, f"the queue {rules.name}", rules.limit, rules.max_jobs
        own = path[-1]
        yield of_user, f"a user of the queue {own.name}", own.user_limit, own.user_jobs

    def _over(self, gang: Gang, cap: Cap, standing: Standing, whose: str) -> Reason | None:
        """Why the gang cannot be on devices of this class."""
        left = cap.thousandths - cap.of(standing.held)
        most = 0
        for name, memory in self._models:
            if not fnmatchcase(name, cap.glob):
                continue
            needed = sum(
                share_of(*fit.share_of(member.demand, memory), memory)
                for member in gang.members
                if not member.demand.filter.name or fnmatchcase(name, member.demand.filter.name)
            )
            most = max(most, needed)
        if most <= left:
            return None
        of = "" if cap.glob == "*" else f" of {cap.glob}"
        return Reason(
            SchedulingReason.QUEUE_LIMIT,
            f"{whose} may hold {cap.thousandths / 1000:g} devices{of}, of which {max(0, left) / 1000:g} are left; "
            f"this needs {most / 1000:g}",
        )

    def _narrow(self, gang: Gang, exhausted: dict[str, Reason]) -> Gang | Reason:
        """The gang, kept off the classes of which no more may be had."""
        without = tuple(sorted(exhausted))
        usable = [
            name
            for name, _ in self._models
            if not any(fnmatchcase(name, glob) for glob in without)
            and all(not m.demand.filter.name or fnmatchcase(name, m.demand.filter.name) for m in gang.members)
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
