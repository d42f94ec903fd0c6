"""A small cluster that runs through time with the shipped policies: who waits, who is bound, when leases end.

Only placement is real here: grants take no time, and leases end when they are told to.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count

from cumulus.resources.device import Device, counted_share
from cumulus.resources.key import Key
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.quantity import Share
from cumulus.resources.queue import Queue, QueueSpec
from cumulus.resources.queue_usage import QueueUsage, QueueUsageSpec, usage_name
from cumulus.resources.reservation import Reservation
from cumulus.scheduling.claim import Demand, Filter, Promised, Returning, Yields
from cumulus.scheduling.cycle import CycleResult, place
from cumulus.scheduling.fair import with_queues
from cumulus.scheduling.policy import DEFAULT, Policies
from cumulus.scheduling.promises import PromiseChange
from cumulus.scheduling.queues import Book, QueueAccounts, Tree
from cumulus.scheduling.reclaim import Victim, spared
from cumulus.scheduling.snapshot import Gang, Hold, Member, Node, ReturnsBy, Snapshot
from cumulus.scheduling.usage import PastLease, with_ended
from cumulus.scheduling.windows import next_change, plan, with_windows
from tests.scheduling.build import GI, NOW

HALF_LIFE = 7 * 86400.0


def a_queue(name: str, **spec: object) -> Queue:
    """A queue with that spec."""
    return Queue(metadata=ObjectMeta(name=name, uid=f"uid-{name}", generation=1), spec=QueueSpec.model_validate(spec))


@dataclass
class Job:
    """A program that leases `replicas` equal shares for `seconds`, and uses a part of that."""

    name: str
    user: str = "alice"
    queue: str = ""
    memory: Share = field(default_factory=lambda: Share(size=80 * GI))
    seconds: float = 3600.0
    uses: float = 1.0
    replicas: int = 1
    priority: int = 0
    spread: bool | None = None
    yields: bool = False
    """Whether it saves its work and goes on later where others need its share."""
    grace: float = 30.0
    arrives: float = 0.0
    asked: int = 0
    """How often it gave up its share."""
    bound: float | None = None
    bounds: list[float] = field(default_factory=list)
    """When it was bound, each time."""
    ended: float | None = None
    promises: list[tuple[float, datetime]] = field(default_factory=list)
    """When it was told what."""


class Cluster:
    """`nodes` of one device of 80 GiB each. Time is in seconds since NOW."""

    def __init__(self, queues: Iterable[Queue], nodes: int = 1, *, devices: int = 1, name: str = "NVIDIA H100") -> None:
        self.nodes = tuple(
            Node(f"n{number}", True, "", False, {}, ("process",),
                 tuple(Device(index, "", name, "NVIDIA", "gpu", 80 * GI) for index in range(devices)))
            for number in range(nodes)
        )  # fmt: skip
        self.tree = Tree(queues)
        self.time = 0.0
        self.usages: dict[tuple[str, str], QueueUsage] = {}
        self.jobs: dict[str, Job] = {}
        self.waiting: dict[str, Gang] = {}
        self.holds: dict[str, list[Hold]] = {}
        self.late: list[str] = []
        """Jobs that were bound after they were promised to be, or whose promise moved later."""
        self.cycles = 0
        self.reservations: dict[str, Reservation] = {}
        self.watch: Callable[[Snapshot, Policies, CycleResult], None] | None = None
        self._demands: dict[Share, Demand] = {}
        self._ends: list[tuple[float, int, str]] = []
        self._arrivals: list[tuple[float, int, Job]] = []
        self._numbers = count()

    @property
    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.time)

    def submit(self, *jobs: Job) -> None:
        """They come when they say."""
        for job in jobs:
            self.jobs[job.name] = job
            heapq.heappush(self._arrivals, (job.arrives, next(self._numbers), job))

    def run(self, until: float = float("inf")) -> None:
        """To that time, or until nothing happens any more."""
        while True:
            due = [queue[0][0] for queue in (self._arrivals, self._ends) if queue]
            if (due or self.waiting) and (change := next_change(self.policies().windows, self.now)) is not None:
                due.append((change - NOW).total_seconds())
            if not due or min(due) > until:
                self.time = until if until != float("inf") else self.time
                return
            self.time = min(due)
            while self._ends and self._ends[0][0] <= self.time:
                self._end(heapq.heappop(self._ends)[2])
            while self._arrivals and self._arrivals[0][0] <= self.time:
                self._arrive(heapq.heappop(self._arrivals)[2])
            self.settle()

    def settle(self) -> None:
        """Cycles until one changes nothing."""
        while self.cycle():
            pass

    def policies(self) -> Policies:
        policies = with_queues(DEFAULT, Book(self.tree, QueueAccounts(self.usages.values())))
        planned = plan(self.reservations.values(), self.snapshot(), self.tree)
        for each in planned:
            self.reservations[each.reservation.metadata.name] = each.reservation.replace(status=each.status)
        return with_windows(policies, planned)

    def snapshot(self) -> Snapshot:
        holds = tuple(hold for held in self.holds.values() for hold in held)
        return Snapshot(self.now, self.nodes, holds, tuple(self.waiting.values()))

    def cycle(self) -> bool:
        snapshot, policies = self.snapshot(), self.policies()
        done = place(snapshot, policies)
        self.cycles += 1
        if self.watch is not None:
            self.watch(snapshot, policies, done)
        for name in dict.fromkeys(binding.gang for binding in done.bindings):
            self._bind(name, done)
        for victim in done.victims:
            self._ask(victim)
        for key in spared(snapshot):
            self._spare(key)
        for moved in done.moved:
            self._promise(moved)
        return bool(done.bindings or done.moved or done.victims)

    def _ask(self, victim: Victim) -> None:
        name, said = victim.hold.job, Returning(victim.at, victim.gang.name)
        held = self.holds[name]
        back = victim.at + timedelta(seconds=self.jobs[name].grace)
        self.holds[name] = [
            replace(h, returning=said, returns_at=back, kept_until=h.returns_at)
            if h.partition == victim.hold.partition
            else h
            for h in held
        ]
        if self.holds[name][-1].partition == victim.hold.partition:
            # It takes most of its grace to save.
            left = (victim.at - NOW).total_seconds() + 0.9 * self.jobs[name].grace
            heapq.heappush(self._ends, (left, next(self._numbers), name))

    def _spare(self, key: Key) -> None:
        for name, held in self.holds.items():
            job = self.jobs[name]
            ends = NOW + timedelta(seconds=(job.bound or 0) + job.seconds)
            self.holds[name] = [
                replace(h, returning=None, returns_at=ends, kept_until=None) if h.partition == key else h for h in held
            ]

    def _arrive(self, job: Job) -> None:
        demand = self._demands.setdefault(job.memory, Demand(Filter(), job.memory, None))
        members = tuple(
            Member(Key("GPUPartition", "default", f"{job.name}-{n}"), job.name, demand, n) for n in range(job.replicas)
        )
        since = NOW + timedelta(seconds=job.arrives)
        self.waiting[job.name] = Gang(
            job.name, members, job.seconds, job.priority, since, job.name, job.user, queue=job.queue,
            spread=job.spread, yielded=job.asked > 0,
        )  # fmt: skip

    def _bind(self, name: str, plan: CycleResult) -> None:
        job, gang = self.jobs[name], self.waiting.pop(name)
        job.bound = self.time
        if gang.promised is not None and self.now > gang.promised:
            self.late.append(name)
        ends = self.now + timedelta(seconds=job.seconds)
        self.holds[name] = [
            Hold(
                b.node, b.device, b.memory_bytes, b.compute, ends, b.partition, b.partition.name, name, job.user,
                ReturnsBy.LEASE_END, queue=job.queue or "default", since=self.now, share=b.share,
                device_name=b.device_name, yields=Yields(False, job.priority, job.grace) if job.yields else None,
            )
            for b in plan.bindings
            if b.gang == name
        ]  # fmt: skip
        job.bounds.append(self.time)
        heapq.heappush(self._ends, (self.time + job.seconds * job.uses, next(self._numbers), name))

    def _promise(self, moved: PromiseChange) -> None:
        name, start_by = moved.gang.name, moved.start_by
        gang = self.waiting[name]
        seats = {seat.partition: (seat.node, seat.device, moved.sure) for seat in moved.seats}
        if gang.promised is not None and (start_by is None or start_by > gang.promised):
            self.late.append(name)
        members = tuple(
            replace(m, promise=None if start_by is None else Promised(start_by, *seats[m.partition]))
            for m in gang.members
        )
        self.waiting[name] = replace(gang, members=members, promised=start_by)
        if start_by is not None and start_by != gang.promised:
            self.jobs[name].promises.append((self.time, start_by))

    def _end(self, name: str) -> None:
        job = self.jobs[name]
        held = self.holds.get(name)
        if held is None or job.bound is None:
            return
        taken = held[0].returning
        over = self.time >= job.bound + job.seconds * job.uses
        if not over and (taken is None or self.now < taken.at):
            # It was spared, or is bound anew.
            return
        if over:
            job.ended = self.time
        else:
            job.asked += 1
            job.seconds -= max(0.0, self.time - job.bound - job.grace)
            job.bound = None
            heapq.heappush(self._arrivals, (self.time, next(self._numbers), job))
        for hold in self.holds.pop(name):
            place = (hold.queue, hold.user)
            usage = self.usages.get(place) or QueueUsage(
                metadata=ObjectMeta(name=usage_name(*place)), spec=QueueUsageSpec(queue=place[0], user=place[1])
            )
            share = counted_share(hold.memory_bytes, hold.compute, 80 * GI)
            assert hold.since is not None
            lease = PastLease(share, (self.now - hold.since).total_seconds(), job.seconds, "job")
            half_life = self.tree.rules(place[0]).half_life
            self.usages[place] = usage.replace(status=with_ended(usage.status, lease, self.now, half_life))

    def device_seconds(self, *, user: str = "", queue: str = "") -> float:
        """Held so far, of all, of a user, or of a queue."""
        total = 0.0
        for job in self.jobs.values():
            if job.bound is not None and user in ("", job.user) and queue in ("", job.queue):
                whole = (job.memory.size or 0) / (80 * GI)
                total += whole * job.replicas * ((self.time if job.ended is None else job.ended) - job.bound)
        return total
