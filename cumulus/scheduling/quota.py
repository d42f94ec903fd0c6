"""Whose shares may be taken back for a queue that is sure of them.

A quota has one book, over time: at each moment from now on it counts what the queue holds and does not give back for
sure before, and what its jobs were promised within the quota by then. A gang is *within quota* from a moment on where
its queue's quota, or that of the nearest above that has one, is enough for it too at each moment from then on.

What is promised within quota is written down as such. So it counts until the gang starts, whatever its queue holds
meanwhile: a job of the queue that starts before, beside the promise, is the one that borrows.

What may be taken back for a gang that is within quota now are the shares of jobs that borrow: every queue with a quota
that they count for, and that the gang does not, holds at least its quota without them. A job yields where it saves its
work first, or said that it may be killed; after its queue's `minRuntime`; not where it is urgent.

There are no loops. A share that is taken back goes from a queue that keeps its quota without it to one that then holds
no more than its own: what is held within quotas grows with each, and cannot grow for ever. And a job that yielded has
nothing taken back for it after that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from glob import escape
from itertools import accumulate

from cumulus.resources.device import Device, counted_share
from cumulus.resources.quantity import parse_duration
from cumulus.resources.queue import MIN_RUNTIME
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.scheduling import fit
from cumulus.scheduling.policy import DevicePlace, Lender, Lenders, TakenShare
from cumulus.scheduling.queues import Book, Cap, Rules, Tree, matches
from cumulus.scheduling.snapshot import Gang, Hold, ReturnsBy, Snapshot


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
        self._quotas: dict[str, _Quota] = {}
        self._of_queue: dict[str, _Quota | None] = {}
        self._ends = _Ends(book.tree, snapshot)
        self._sure: set[str] = set()
        self._asked: set[str] = set()
        """Jobs that were asked in this cycle."""
        waiting = [(gang, promised) for gang in snapshot.pending if (promised := gang.promised) and gang.sure]
        devices = {(n.name, d.index): d for n in snapshot.nodes for d in n.devices} if waiting else {}
        for gang, promised in waiting:
            self._sure.add(gang.name)
            places = [(m.promise.node, m.promise.device) for m in gang.members if m.promise is not None]
            # What was promised on a device that is gone counts nothing until it is promised elsewhere.
            self.promise(gang, _shares(gang, [devices.get(at) for at in places]), promised)

    def within(self, gang: Gang) -> Gang | None:
        quota = self._quota(gang)
        if gang.yielded or quota is None:
            return None
        return self._kept_to(gang, self._names(gang, lambda cap: quota.left(cap, self._snapshot.now, gang.name)))

    def covered(self, gang: Gang) -> Gang:
        quota = self._quota(gang)
        if quota is None or gang.name not in self._sure:
            return gang
        return self._kept_to(gang, self._names(gang, lambda cap: cap.thousandths)) or gang

    def sure(self, gang: str) -> bool:
        return gang in self._sure

    def urgent(self, gang: str) -> bool:
        return gang in self._urgent

    @cached_property
    def _urgent(self) -> set[str]:
        return {
            gang.name for gang in self._snapshot.pending
            if self._tree.rules(gang.queue or DEFAULT_QUEUE).band(gang.priority)[1]
        }  # fmt: skip

    def promise(self, gang: Gang, shares: Sequence[TakenShare], start_by: datetime) -> bool:
        quota = self._quota(gang)
        names = {name for name, _ in shares}

        def left(cap: Cap) -> int:
            # It stands, also where others of its queue have started meanwhile, or the quota was made smaller.
            return cap.thousandths if quota is None or gang.name in self._sure else quota.left(cap, start_by)

        if quota is None or not names <= self._names(gang, left):
            self.withdraw(gang)
            return False
        self._sure.add(gang.name)
        quota.promised[gang.name] = start_by, _counted(shares)
        return True

    def may_move(self, gang: Gang, shares: Sequence[TakenShare], start: datetime) -> bool:
        quota = self._quota(gang)
        if quota is None or gang.name not in self._sure:
            return True
        return {name for name, _ in shares} <= self._names(gang, lambda cap: quota.left(cap, start, gang.name))

    def withdraw(self, gang: Gang) -> None:
        self._sure.discard(gang.name)
        if (quota := self._quota(gang)) is not None:
            quota.promised.pop(gang.name, None)

    def take(self, gang: Gang, shares: Sequence[TakenShare]) -> None:
        if (quota := self._quota(gang)) is not None:
            quota.promised.pop(gang.name, None)
            for name, share in shares:
                quota.given[name] += share

    def ask(self, lender: Lender) -> None:
        self._asked.add(lender.job)
        for rules in self._tree.path(lender.holds[0].queue):
            self._returning.setdefault(rules.name, Counter()).update(_by_name(lender.holds))

    def lenders(self, gang: Gang, places: Collection[DevicePlace], helps: Callable[[Lender], bool]) -> Sequence[Lender]:
        quota = self._quota(gang)
        assert quota is not None
        spared = {rules.name for rules in self._tree.path(gang.queue or DEFAULT_QUEUE)}
        given: dict[str, Counter[str]] = {}
        found = []
        there = [
            lender for lender in self._that_may_yield
            if lender.job not in self._asked and any((hold.node, hold.device) in places for hold in lender.holds)
        ]  # fmt: skip
        # A queue can spare only so many: not those who would yield in vain.
        for lender in sorted(there, key=lambda lender: not helps(lender)):
            path = self._tree.path(lender.holds[0].queue)
            if any(rules.name == quota.name for rules in path):
                continue
            counted = [rules for rules in path if rules.quota and rules.name not in spared]
            if all(self._can_spare(rules, lender, given.get(rules.name, Counter())) for rules in counted):
                found.append(lender)
                for rules in counted:
                    given.setdefault(rules.name, Counter()).update(_by_name(lender.holds))
        return found

    def _quota(self, gang: Gang) -> _Quota | None:
        """That of which it would come out; None where no queue on its path has one."""
        queue = gang.queue
        if queue not in self._of_queue:
            self._of_queue[queue] = self._quota_of(self._tree.owner(queue or DEFAULT_QUEUE))
        return self._of_queue[queue]

    def _quota_of(self, owner: Rules | None) -> _Quota | None:
        if owner is None:
            return None
        found = self._quotas.get(owner.name)
        if found is None:
            found = self._quotas[owner.name] = _Quota(owner, self._standings.queue(owner.name).held, self._ends)
        return found

    def _names(self, gang: Gang, left: Callable[[Cap], int]) -> set[str]:
        """The devices, by name, of which so much is left of its queue's quota as the gang needs."""
        owner = self._tree.owner(gang.queue or DEFAULT_QUEUE)
        caps = [] if owner is None else [(cap.glob, left(cap)) for cap in owner.quota]
        return {
            name for name, memory in self._models
            if any(matches(name, glob) and _needed(gang, memory) <= amount for glob, amount in caps)
        }  # fmt: skip

    def _kept_to(self, gang: Gang, names: Collection[str]) -> Gang | None:
        """The gang, kept to devices of these names; None where there are none."""
        without = sorted({escape(name) for name, _ in self._models if name not in names})
        if not names or not without:
            return gang if names else None
        members = tuple(
            replace(m, demand=replace(m.demand, filter=replace(
                m.demand.filter, without=(*m.demand.filter.without, *without)
            )))
            for m in gang.members
        )  # fmt: skip
        return replace(gang, members=members)

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


class _Quota:
    """The book of one."""

    def __init__(self, owner: Rules, held: Mapping[str, int], ends: _Ends) -> None:
        self.name = owner.name
        self.given: Counter[str] = Counter()
        """What its jobs got in this cycle, by names of devices."""
        self.promised: dict[str, tuple[datetime, Counter[str]]] = {}
        """What is promised within it, by gang: from when on, and what."""
        self._held = held
        self._ends = ends

    def left(self, cap: Cap, start: datetime, besides: str = "") -> int:
        """The least that is left of it at any moment from then on. `besides`: a gang that is not counted."""
        promised = [(at, cap.of(shares)) for name, (at, shares) in self.promised.items() if name != besides]
        # Between these moments leases end, and that is all.
        moments = {start, *(at for at, _ in promised if at > start)}
        most = max(
            sum(amount for at, amount in promised if at <= moment) - self._ends.by(self.name, cap, moment)
            for moment in moments
        )
        return cap.thousandths - cap.of(self._held) - cap.of(self.given) - most


class _Ends:
    """What queues with a quota hold and give back for sure, by time."""

    def __init__(self, tree: Tree, snapshot: Snapshot) -> None:
        self._tree = tree
        self._snapshot = snapshot
        self._back: dict[tuple[str, Cap], tuple[list[datetime], list[int]]] = {}

    def by(self, queue: str, cap: Cap, moment: datetime) -> int:
        """What of it the queue has given back by then."""
        if moment <= self._snapshot.now:
            return 0
        known = self._back.get((queue, cap))
        if known is None:
            ends = [end for end in self._of_queue.get(queue, ()) if matches(end[1], cap.glob)]
            known = self._back[queue, cap] = [at for at, _, _ in ends], list(accumulate(share for _, _, share in ends))
        count = bisect_right(known[0], moment)
        return known[1][count - 1] if count else 0

    @cached_property
    def _of_queue(self) -> dict[str, list[tuple[datetime, str, int]]]:
        """Ends in the order of time, with the device's name and the share."""
        found: dict[str, list[tuple[datetime, str, int]]] = {}
        owners: dict[str, list[str]] = {}
        for hold in self._snapshot.holds:
            if hold.queue and hold.share and hold.returns_by.certain:
                if hold.queue not in owners:
                    owners[hold.queue] = [rules.name for rules in self._tree.path(hold.queue) if rules.quota]
                for name in owners[hold.queue]:
                    found.setdefault(name, []).append((hold.returns_at, hold.device_name, hold.share))
        for ends in found.values():
            ends.sort()
        return found


def _needed(gang: Gang, memory: int) -> int:
    """What the gang counts on devices of so much memory."""
    return sum(counted_share(*fit.share_of(member.demand, memory), memory) for member in gang.members)


def _min_runtime(path: Sequence[Rules]) -> float:
    """Seconds for which a job of that queue keeps what it borrows: those of the nearest queue that says so."""
    said = (rules.min_runtime for rules in reversed(path) if rules.min_runtime is not None)
    return next(said, parse_duration(MIN_RUNTIME))


def _shares(gang: Gang, devices: Sequence[Device | None]) -> list[TakenShare]:
    """What the gang takes of these, where they are there."""
    return [
        (device.name, counted_share(*fit.share_of(member.demand, device.memory_bytes), device.memory_bytes))
        for device, member in zip(devices, gang.members, strict=True)
        if device is not None
    ]


def _counted(shares: Sequence[TakenShare]) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, share in shares:
        found[name] += share
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
