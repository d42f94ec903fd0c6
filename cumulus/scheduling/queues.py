"""The tree of queues, and what each queue and each user in it holds and has used, in one snapshot."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cumulus.resources.device import FULL_COMPUTE, Device, counted_share
from cumulus.resources.placement import Placement
from cumulus.resources.quantity import format_duration, parse_duration
from cumulus.resources.queue import DAYS, Amount, Opening, Queue, QueueSpec, clock_minutes
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.resources.queue_usage import QueueUsage, QueueUsageStatus
from cumulus.scheduling import usage
from cumulus.scheduling.snapshot import Gang, Snapshot

matches = lru_cache(maxsize=4096)(fnmatchcase)
"""Whether a device's name matches a glob. There are few of each, and a cycle asks ten thousand times."""

_MINUTE = timedelta(minutes=1)
_WEEK = 7 * 24 * 60


class Cap(NamedTuple):
    """So many thousandths of devices whose name matches the glob."""

    glob: str
    thousandths: int

    def of(self, held: Mapping[str, int]) -> int:
        """What of it is held, by names of devices."""
        if self.glob == "*":
            return sum(held.values())
        return sum([amount for name, amount in held.items() if matches(name, self.glob)])


class Rules:
    """A queue's spec, as placement asks for it."""

    def __init__(self, name: str, spec: QueueSpec) -> None:
        self.name = name
        self.parent = spec.parent
        self.weight = spec.weight
        self.quota = _caps(spec.quota)
        self.limit = _caps(spec.limit)
        self.max_jobs = spec.max_jobs
        self.user_limit = _caps(spec.per_user.limit)
        self.user_jobs = spec.per_user.max_jobs
        self.half_life = parse_duration(spec.half_life)
        self.min_runtime = None if spec.min_runtime is None else parse_duration(spec.min_runtime)
        self.placement = spec.placement
        self.default_priority = spec.default_priority
        self.highest_priority = spec.highest_priority
        """No job has a higher one; `Tree` lowers it to that of the queues above."""
        self._bands = sorted((band.from_, band.urgent) for band in spec.bands)
        self._hours = spec.hours
        self._zone = spec.time_zone

    @property
    def restricts(self) -> bool:
        """Whether anybody can be held back by it alone."""
        return bool(self.limit or self.max_jobs or self.user_limit or self.user_jobs or self._hours)

    @property
    def has_bands(self) -> bool:
        return bool(self._bands)

    def band(self, priority: int) -> tuple[int, bool]:
        """The band of a job with that priority, higher first, and whether it is urgent."""
        priority = priority or self.default_priority
        if self.highest_priority is not None:
            priority = min(priority, self.highest_priority)
        if not self._bands:
            return priority, False
        index = bisect_right(self._bands, (priority, True)) - 1
        return self._bands[index] if index >= 0 else (priority, False)

    def opens_at(self, now: datetime) -> datetime | None:
        """When jobs of it may start again; None where they may now."""
        if not self._hours:
            return None
        local = now.astimezone(ZoneInfo(self._zone))
        minute = local.weekday() * 24 * 60 + local.hour * 60 + local.minute
        spans = [span for opening in self._hours for span in _minutes_of_week(opening)]
        if any(start <= minute < end for start, end in spans):
            return None
        wait = min((start - minute) % _WEEK for start, _ in spans)
        opens = (local.replace(second=0, microsecond=0) + wait * _MINUTE).replace(fold=0)
        found = opens.astimezone(UTC)
        # Of a time of day that comes twice, the first may be over.
        return found if found > now else opens.replace(fold=1).astimezone(UTC)


def _caps(amounts: Iterable[Amount]) -> tuple[Cap, ...]:
    return tuple(Cap(amount.device, amount.thousandths) for amount in amounts)


def _minutes_of_week(opening: Opening) -> Iterable[tuple[int, int]]:
    for day in opening.days:
        midnight = DAYS.index(day) * 24 * 60
        yield midnight + clock_minutes(opening.from_), midnight + clock_minutes(opening.to)


class Tree:
    """All queues."""

    def __init__(self, queues: Iterable[Queue]) -> None:
        self._rules = {queue.metadata.name: Rules(queue.metadata.name, queue.spec) for queue in queues}
        self._paths: dict[str, tuple[Rules, ...]] = {}
        self._owners: dict[str, Rules | None] = {}
        ceilings = {
            name: [r.highest_priority for r in self.path(name) if r.highest_priority is not None]
            for name in self._rules
        }
        for name, rules in self._rules.items():
            rules.highest_priority = min(ceilings[name], default=None)

    def __bool__(self) -> bool:
        return bool(self._rules)

    @cached_property
    def has_quotas(self) -> bool:
        """Whether any queue is sure of something."""
        return any(rules.quota for rules in self._rules.values())

    @cached_property
    def admits_all(self) -> bool:
        """Whether no queue holds anybody back, nor says where jobs go."""
        return not any(rules.restricts or rules.placement is not None for rules in self._rules.values())

    @cached_property
    def counts_jobs(self) -> bool:
        """Whether any queue says how many jobs may hold something at once."""
        return any(rules.max_jobs is not None or rules.user_jobs is not None for rules in self._rules.values())

    @property
    def names(self) -> Iterable[str]:
        return self._rules

    def opens_at(self, now: datetime) -> datetime | None:
        """When the first of the queues that are closed opens."""
        return min((at for rules in self._rules.values() if (at := rules.opens_at(now)) is not None), default=None)

    def has(self, name: str) -> bool:
        """The default queue is always there."""
        return name in self._rules or name == DEFAULT_QUEUE

    def owner(self, name: str) -> Rules | None:
        """The queue whose quota jobs of that queue come out of: its own, else that of the nearest above."""
        if name not in self._owners:
            self._owners[name] = next((rules for rules in reversed(self.path(name)) if rules.quota), None)
        return self._owners[name]

    def rules(self, name: str) -> Rules:
        found = self._rules.get(name)
        if found is None:
            found = Rules(name, QueueSpec())
        return found

    def path(self, name: str) -> tuple[Rules, ...]:
        """From the top of the tree down to the queue. Where parents go round in a circle, it begins with the one that
        would come again; a parent that is not there is as none."""
        path = self._paths.get(name)
        if path is None:
            found = [self.rules(name)]
            seen = {name}
            while (parent := found[-1].parent) is not None and parent in self._rules and parent not in seen:
                seen.add(parent)
                found.append(self._rules[parent])
            path = self._paths[name] = tuple(reversed(found))
        return path


def placement_of(path: Sequence[Rules]) -> tuple[Placement, str] | None:
    """Pack or Spread for jobs that say nothing, and which queue on the path says so: the lowest that does."""
    return next(((rules.placement, rules.name) for rules in reversed(path) if rules.placement is not None), None)


@dataclass(slots=True)
class Standing:
    """Of one queue with those below it, or of one user in a queue."""

    used: float = 0.0
    """Device-seconds that count."""
    held: Counter[str] = field(default_factory=Counter)
    """Thousandths, by the name of the device."""
    jobs: set[str] = field(default_factory=set)
    """That hold something, where a queue says how many may."""


class _Group:
    """Shares of one user in one queue on devices of one name."""

    __slots__ = ("jobs", "rate", "share", "used")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.share = 0
        self.used = 0.0
        self.jobs: set[str] = set()


class QueueAccounts:
    """What was used before, by queue and user."""

    def __init__(self, usages: Iterable[QueueUsage]) -> None:
        self._by_place: dict[tuple[str, str], QueueUsageStatus] = {
            (found.spec.queue, found.spec.user): found.status for found in usages
        }

    def items(self) -> Iterable[tuple[tuple[str, str], QueueUsageStatus]]:
        return self._by_place.items()

    def of(self, queue: str, user: str) -> QueueUsageStatus:
        return self._by_place.get((queue, user)) or QueueUsageStatus()


class Book:
    """The tree with what was used before: all that the policies of a cluster with queues know."""

    def __init__(self, tree: Tree, accounts: QueueAccounts) -> None:
        self.tree = tree
        self.accounts = accounts
        self._last: tuple[Snapshot, Standings] | None = None

    def standings(self, snapshot: Snapshot) -> Standings:
        """In that snapshot; the last one's are kept."""
        if self._last is None or self._last[0] is not snapshot:
            self._last = (snapshot, Standings(self.tree, self.accounts, snapshot))
        return self._last[1]

    def lasts(self, queue: str, user: str, job: str) -> float | None:
        """The part of its lease that a job is expected to hold, as its like did before."""
        return usage.expected_part(self.accounts.of(queue or DEFAULT_QUEUE, user), usage.plain_name(job))

    def note(self, snapshot: Snapshot, gang: Gang) -> Sequence[str]:
        """Which figures give a gang its place."""
        standings, queue = self.standings(snapshot), gang.queue or DEFAULT_QUEUE
        path = self.tree.path(queue)
        own = path[-1]
        band, urgent = own.band(gang.priority)
        parts = [f"queue {' / '.join(rules.name for rules in path)}"]
        if own.has_bands or band:
            parts.append(f"band from priority {band}{', urgent' if urgent else ''}")
        lines = [", ".join(parts)]
        counted = [
            f"{rules.name} {standings.queue(rules.name).used / 3600:.1f} device-hours at weight {rules.weight}"
            for rules in path
        ]
        counted.append(f"{gang.user or 'its user'} {standings.user(queue, gang.user).used / 3600:.1f}")
        half_life = format_duration(own.half_life)
        lines.append(f"counted use, which halves in {half_life}: {', '.join(counted)}; who has less by weight is first")
        if gang.spread is None and (said := placement_of(path)) is not None:
            lines.append(f"placement {said[0]}, as the queue {said[1]} says")
        return lines


class Standings:
    """Of every queue and user, now."""

    def __init__(self, tree: Tree, accounts: QueueAccounts, snapshot: Snapshot) -> None:
        self.tree = tree
        self._snapshot = snapshot
        self._queues: dict[str, Standing] = {}
        self._users: dict[tuple[str, str], Standing] = {}
        now = snapshot.now
        for (queue, user), status in accounts.items():
            if status.decayed:
                at = datetime.fromisoformat(status.at) if status.at else None
                half_life = tree.rules(queue).half_life
                self._add_use(queue, user, usage.faded(status.decayed, at, now, half_life))
        for (queue, user, name), group in self._held(snapshot).items():
            for standing in self.along(queue, user):
                standing.used += group.used
                standing.held[name] += group.share
                standing.jobs |= group.jobs

    def _held(self, snapshot: Snapshot) -> dict[tuple[str, str, str], _Group]:
        """By queue, user and name of the device. There may be fifty thousand shares: each is looked at once."""
        devices: dict[tuple[str, int], Device] = {}
        groups: dict[tuple[str, str, str], _Group] = {}
        now, expm1, counts_jobs = snapshot.now, math.expm1, self.tree.counts_jobs
        for hold in snapshot.holds:
            queue = hold.queue
            if not queue:
                continue
            share, name = hold.share, hold.device_name
            if not share:
                devices = devices or {(n.name, d.index): d for n in snapshot.nodes for d in n.devices}
                device = devices.get((hold.node, hold.device))
                if device is None:
                    continue
                share, name = counted_share(hold.memory_bytes, hold.compute, device.memory_bytes), device.name
            key = (queue, hold.user, name)
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group(usage.rate(self.tree.rules(queue).half_life))
            group.share += share
            if counts_jobs and hold.job:
                group.jobs.add(hold.job)
            since = hold.since
            if since is not None and since < now:
                # As `usage.counted`, without a call.
                group.used -= share * expm1((since - now).total_seconds() * group.rate)
        for group in groups.values():
            group.used /= group.rate * FULL_COMPUTE
        return groups

    @cached_property
    def whole(self) -> float:
        """Device-seconds in an hour of all devices."""
        return max(1, sum(len(node.devices) for node in self._snapshot.nodes)) * 3600.0

    def queue(self, name: str) -> Standing:
        found = self._queues.get(name)
        if found is None:
            found = self._queues[name] = Standing()
        return found

    def user(self, queue: str, user: str) -> Standing:
        found = self._users.get((queue, user))
        if found is None:
            found = self._users[queue, user] = Standing()
        return found

    def along(self, queue: str, user: str) -> list[Standing]:
        """Of the queues from the top down, and of the user in the last of them."""
        return [*(self.queue(rules.name) for rules in self.tree.path(queue)), self.user(queue, user)]

    def ratios(self, queue: str, user: str) -> tuple[float, ...]:
        """Use by weight, from the top down to the user: who has less goes first. In hours of all devices, so that it
        says the same in a small cluster as in a large one."""
        whole = self.whole
        path = self.tree.path(queue)
        return (
            *(self.queue(rules.name).used / (whole * rules.weight) for rules in path),
            self.user(queue, user).used / whole,
        )

    def _add_use(self, queue: str, user: str, amount: float) -> None:
        for standing in self.along(queue, user):
            standing.used += amount
