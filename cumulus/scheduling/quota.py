"""Whose shares may be taken back for a queue that is sure of them.

A gang is *within quota* where its queue, or the nearest above that has a quota, holds so little that the gang still
fits into it. What may be taken back for it are the shares of jobs that borrow: every queue with a quota that they count
for, and that the gang does not, holds at least its quota without them. A job yields where it saves its work first, or
said that it may be killed; after its queue's `minRuntime`; not where it is urgent.

There are no loops. A share that is taken back goes from a queue that keeps its quota without it to one that then holds
no more than its own: what is held within quotas grows with each, and cannot grow for ever. And a job that yielded has
nothing taken back for it after that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from glob import escape

from cumulus.resources.quantity import parse_duration
from cumulus.resources.queue import MIN_RUNTIME
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.scheduling import fit
from cumulus.scheduling.policy import Lender, Lenders, Place, Taken
from cumulus.scheduling.queues import Book, Cap, Rules, Tree, matches
from cumulus.scheduling.snapshot import Gang, Hold, ReturnsBy, Snapshot
from cumulus.scheduling.usage import share_of


@dataclass(frozen=True)
class TakeBackQuota:
    """The preemption of a cluster with queues."""

    book: Book

    def begin(self, snapshot: Snapshot) -> Lenders | None:
        return _Lent(self.book, snapshot) if self.book.tree.has_quotas else None


class _Lent:
    def __init__(self, book: Book, snapshot: Snapshot) -> None:
        self._tree = book.tree
        self._standings = book.standings(snapshot)
        self._snapshot = snapshot
        self._models = {(d.name, d.memory_bytes) for node in snapshot.nodes for d in node.devices}
        self._taken: dict[str, Counter[str]] = {}
        """What queues with a quota get in this cycle, or were promised within it, by names of devices."""
        self._sure: set[str] = set()
        self._then: set[str] = set()
        """Gangs that are within quota when they are to start: their queue will have given back enough, and has not yet.
        Nothing is taken back for them sooner."""
        self._later: dict[str, list[tuple[Counter[str], Counter[str]]]] = {}
        """By time, when each of these is to start: what its queue will have given back, and what they get by then."""
        self._asked: set[str] = set()
        """Jobs that were asked in this cycle."""
        devices = {(n.name, d.index): d for n in snapshot.nodes for d in n.devices}
        waiting = [(gang.promised, gang.name, gang) for gang in snapshot.pending if gang.promised is not None]
        waiting = [found for found in waiting if self._owner(found[2]) is not None]
        ends = _Ends(self._tree, snapshot) if waiting else None
        for promised, _, gang in sorted(waiting, key=lambda found: found[:2]):
            owner = self._owner(gang)
            places = [(m.promise.node, m.promise.device) for m in gang.members if m.promise is not None]
            if owner is None or ends is None or not all(place in devices for place in places):
                continue
            found = [devices[place] for place in places]
            names = {device.name for device in found}
            shares = [
                (device, *fit.share_of(member.demand, device.memory_bytes))
                for device, member in zip(found, gang.members, strict=True)
            ]
            if names <= self._names(gang):
                self.take(gang, shares)
            elif names <= self._names(gang, back := Counter(ends.by(owner.name, promised))):
                self._sure.add(gang.name)
                self._then.add(gang.name)
                later = self._later.setdefault(owner.name, [])
                later.append((back, _counted(shares) + (later[-1][1] if later else Counter())))

    def within(self, gang: Gang) -> Gang | None:
        if gang.yielded or gang.name in self._then or self._owner(gang) is None:
            return None
        names = self._names(gang)
        without = {escape(name) for name, _ in self._models if name not in names}
        if not names:
            return None
        if not without:
            return gang
        members = tuple(
            replace(m, demand=replace(m.demand, filter=replace(
                m.demand.filter, without=(*m.demand.filter.without, *sorted(without))
            )))
            for m in gang.members
        )  # fmt: skip
        return replace(gang, members=members)

    def sure(self, gang: str) -> bool:
        return gang in self._sure

    def take(self, gang: Gang, shares: Sequence[Taken]) -> None:
        owner = self._owner(gang)
        if owner is None or gang.name in self._sure:
            return
        self._sure.add(gang.name)
        self._taken.setdefault(owner.name, Counter()).update(_counted(shares))

    def ask(self, lender: Lender) -> None:
        self._asked.add(lender.job)
        for rules in self._tree.path(lender.holds[0].queue):
            self._returning.setdefault(rules.name, Counter()).update(_by_name(lender.holds))

    def lenders(self, gang: Gang, places: Collection[Place]) -> Sequence[Lender]:
        owner = self._owner(gang)
        assert owner is not None
        spared = {rules.name for rules in self._tree.path(gang.queue or DEFAULT_QUEUE)}
        given: dict[str, Counter[str]] = {}
        found = []
        for lender in self._that_may_yield:
            path = self._tree.path(lender.holds[0].queue)
            if lender.job in self._asked or any(rules.name == owner.name for rules in path):
                continue
            if not any((hold.node, hold.device) in places for hold in lender.holds):
                continue
            counted = [rules for rules in path if rules.quota and rules.name not in spared]
            if all(self._can_spare(rules, lender, given.get(rules.name, Counter())) for rules in counted):
                found.append(lender)
                for rules in counted:
                    given.setdefault(rules.name, Counter()).update(_by_name(lender.holds))
        return found

    def _owner(self, gang: Gang) -> Rules | None:
        """The queue whose quota it would come out of."""
        return self._tree.owner(gang.queue or DEFAULT_QUEUE)

    def _names(self, gang: Gang, back: Counter[str] | None = None) -> set[str]:
        """The devices, by name, of which its queue is sure of so much more as the gang needs. `back`: what the queue
        holds and will have given back by then."""
        owner = self._owner(gang)
        assert owner is not None
        return {name for name, memory in self._models if any(self._left(owner, gang, name, memory, back))}

    def _left(self, owner: Rules, gang: Gang, name: str, memory: int, back: Counter[str] | None) -> Iterator[bool]:
        held, taken = self._standings.queue(owner.name).held, self._taken.get(owner.name, Counter())
        needed = sum(share_of(*fit.share_of(member.demand, memory), memory) for member in gang.members)
        later = self._later.get(owner.name, [])
        for cap in owner.quota:
            if not matches(name, cap.glob):
                continue
            free = cap.thousandths - cap.of(held) - cap.of(taken)
            if back is not None:
                yield needed <= free + cap.of(back) - (cap.of(later[-1][1]) if later else 0)
            else:
                # Nor may it make borrowers of those that were promised what the queue will have again.
                then = (free + cap.of(given) - cap.of(gets) for given, gets in later)
                yield gang.name in self._sure or needed <= min((free, *then))

    @cached_property
    def _that_may_yield(self) -> Sequence[Lender]:
        """Jobs, those first whose end costs least: that save their work, of a low priority, that began last."""
        by_job: dict[str, list[Hold]] = {}
        for hold in self._snapshot.holds:
            if hold.job and hold.queue:
                by_job.setdefault(hold.job, []).append(hold)
        found = [lender for job, holds in by_job.items() if (lender := self._lender(job, holds)) is not None]
        return sorted(found, key=_cost)

    def _lender(self, job: str, holds: list[Hold]) -> Lender | None:
        if not all(hold.yields and hold.share and hold.since for hold in holds):
            return None
        if any(hold.returns_by is not ReturnsBy.LEASE_END for hold in holds):
            return None
        if any(hold.returning is not None for hold in holds):
            return None
        path = self._tree.path(holds[0].queue)
        if path[-1].band(max(hold.yields.priority for hold in holds if hold.yields))[1]:
            return None
        least = timedelta(seconds=_min_runtime(path))
        at = max(self._snapshot.now, *(hold.since + least for hold in holds if hold.since))
        back = at + timedelta(seconds=max(1.0, *(hold.yields.grace for hold in holds if hold.yields)))
        # One that ends by itself before that is not hurried.
        return Lender(job, tuple(holds), at, back) if back < min(hold.returns_at for hold in holds) else None

    def _can_spare(self, rules: Rules, lender: Lender, given: Counter[str]) -> bool:
        """Whether the queue holds its quota without the lender, and without those that are to yield before it."""
        held = self._standings.queue(rules.name).held
        mine = _by_name(lender.holds)
        left = held - self._returning.get(rules.name, Counter()) - given - mine
        return all(_at_least(cap, left) for cap in rules.quota if cap.of(mine))

    @cached_property
    def _returning(self) -> dict[str, Counter[str]]:
        """What queues hold and were asked for."""
        found: dict[str, Counter[str]] = {}
        for hold in self._snapshot.holds:
            if hold.returning is not None and hold.queue:
                for rules in self._tree.path(hold.queue):
                    found.setdefault(rules.name, Counter()).update(_by_name((hold,)))
        return found


class _Ends:
    """What queues with a quota hold and give back for sure, by time. A job that waits for its promise is within quota
    where it is so then: a short one of its queue, which is over before, makes no borrower of it."""

    def __init__(self, tree: Tree, snapshot: Snapshot) -> None:
        self._ends: dict[str, list[tuple[datetime, str, int]]] = {}
        self._back: dict[str, Counter[str]] = {}
        owners: dict[str, list[str]] = {}
        for hold in snapshot.holds:
            if hold.queue and hold.share and hold.returns_by.certain:
                if hold.queue not in owners:
                    owners[hold.queue] = [rules.name for rules in tree.path(hold.queue) if rules.quota]
                for name in owners[hold.queue]:
                    self._ends.setdefault(name, []).append((hold.returns_at, hold.device_name, hold.share))
        for found in self._ends.values():
            found.sort(reverse=True)

    def by(self, queue: str, moment: datetime) -> Counter[str]:
        """What it has given back by then, by names of devices. To be asked in the order of time."""
        back, ends = self._back.setdefault(queue, Counter()), self._ends.get(queue, [])
        while ends and ends[-1][0] <= moment:
            _, name, share = ends.pop()
            back[name] += share
        return back


def _min_runtime(path: Sequence[Rules]) -> float:
    """Seconds for which a job of that queue keeps what it borrows: those of the nearest queue that says so."""
    said = (rules.min_runtime for rules in reversed(path) if rules.min_runtime is not None)
    return next(said, parse_duration(MIN_RUNTIME))


def _counted(shares: Sequence[Taken]) -> Counter[str]:
    found: Counter[str] = Counter()
    for device, memory, compute in shares:
        found[device.name] += share_of(memory, compute, device.memory_bytes)
    return found


def _by_name(holds: Sequence[Hold]) -> Counter[str]:
    found: Counter[str] = Counter()
    for hold in holds:
        found[hold.device_name] += hold.share
    return found


def _at_least(cap: Cap, left: Counter[str]) -> bool:
    return cap.of(left) >= cap.thousandths


def _cost(lender: Lender) -> tuple[object, ...]:
    yields = [hold.yields for hold in lender.holds if hold.yields is not None]
    began: datetime = max(hold.since for hold in lender.holds if hold.since)
    return (any(y.killed for y in yields), max(y.priority for y in yields), -began.timestamp(), lender.job)
