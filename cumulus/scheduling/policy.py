"""The replaceable choices of a scheduling cycle: who goes first, who may be placed, who yields.

Each is a protocol with today's behaviour as its default. Policies are pure: what they decide follows from the snapshot.
`explain` must run the same ones as the cycle that places, or its promises hold for another queue.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.resources.reasons import SchedulingReason
from cumulus.scheduling.fit import Reason
from cumulus.scheduling.snapshot import Gang, Hold, Snapshot

TakenShare = tuple[str, int]
"""A share that was given in a cycle: the name of its device, and what it counts, in thousandths of that."""
DevicePlace = tuple[str, int]
"""A node's name and the index of a device there."""


class QueueOrder(Protocol):
    """Who goes first."""

    def arrange(self, snapshot: Snapshot) -> Sequence[Gang]:
        """The gangs of `snapshot.pending`, each once, in the order in which they are considered. Two calls with equal
        snapshots must agree, whatever the order in which the gangs are handed over."""
        ...


class CycleGate(Protocol):
    """What one cycle lets through. It is told what the cycle gives, so that it can count."""

    def admit(self, gang: Gang) -> Gang | Reason:
        """The gang, perhaps kept off some devices, where it may be placed now; else why it may not: then it waits
        without a reservation."""
        ...

    def take(self, gang: Gang, shares: Sequence[TakenShare]) -> None:
        """The gang got these shares, or was promised them."""
        ...


class QueueAdmission(Protocol):
    """Who may be placed at all, whatever is free: a quota, a closed queue."""

    def begin(self, snapshot: Snapshot) -> CycleGate:
        """The gate of one cycle."""
        ...


class HeldWindow(NamedTuple):
    """Devices that are held for some from `start` to `end`."""

    name: str
    users: frozenset[str]
    queues: frozenset[str]
    start: datetime
    end: datetime
    places: tuple[DevicePlace, ...]

    def admits(self, queue: str, user: str) -> bool:
        """Whether it is held for that user of that queue."""
        return user in self.users or (queue or DEFAULT_QUEUE) in self.queues


class Lender(NamedTuple):
    """A job that yields what it holds where it is asked to."""

    job: str
    holds: tuple[Hold, ...]
    at: datetime
    """From when it may be asked."""
    back: datetime
    """When its shares are free at the latest if it is."""


class Lenders(Protocol):
    """Who yields to whom in one cycle. It is told what the cycle gives, so that it can count."""

    def within(self, gang: Gang) -> Gang | None:
        """The gang, perhaps kept off some devices, where others yield to it; else None."""
        ...

    def sure(self, gang: str) -> bool:
        """Whether the promise of the gang of that name is within its queue's quota: it is not moved for another."""
        ...

    def urgent(self, gang: str) -> bool:
        """Whether the gang of that name is of an urgent band: its promise goes before all others, and moves for no
        quota."""
        ...

    def covered(self, gang: Gang) -> Gang:
        """The gang; where it is sure, kept to devices that its queue's quota is about."""
        ...

    def promise(self, gang: Gang, shares: Sequence[TakenShare], start_by: datetime) -> bool:
        """The gang is promised these by then. Whether that is within its queue's quota. It stays so until the gang
        starts, whatever its queue holds meanwhile."""
        ...

    def may_move(self, gang: Gang, shares: Sequence[TakenShare], start: datetime) -> bool:
        """Whether a gang that is sure may be promised these from then on, which is earlier: not where that is beyond
        its queue's quota, and in the way of others'."""
        ...

    def withdraw(self, gang: Gang) -> None:
        """Nothing is promised to the gang any more."""
        ...

    def lenders(self, gang: Gang, places: Collection[DevicePlace], helps: Callable[[Lender], bool]) -> Sequence[Lender]:
        """Who may be asked for a gang that `within` returned: those first who help it, of them those whom it costs
        least. All of them may be asked at once."""
        ...

    def take(self, gang: Gang, shares: Sequence[TakenShare]) -> None:
        """The gang got these shares now."""
        ...

    def ask(self, lender: Lender) -> None:
        """It is asked to yield, once."""
        ...


class Preemption(Protocol):
    """Who must yield to a gang that waits."""

    def begin(self, snapshot: Snapshot) -> Lenders | None:
        """Those of one cycle; None where nobody yields."""
        ...


class PriorityThenAge:
    """A higher priority first, then who joined the queue earlier. The rest of a gang that is bound in part, as after a
    crash amid the writing, goes before all: its shares are taken for nothing until it is whole."""

    def arrange(self, snapshot: Snapshot) -> Sequence[Gang]:
        return sorted(snapshot.pending, key=lambda gang: (not gang.started, -gang.priority, gang.since, gang.name))


class AdmitAll:
    """Whoever waits may be placed."""

    def begin(self, snapshot: Snapshot) -> CycleGate:
        return self

    def admit(self, gang: Gang) -> Gang | Reason:
        return gang

    def take(self, gang: Gang, shares: Sequence[TakenShare]) -> None:
        pass


class MostJobs:
    """At most so many jobs have shares at once, of the whole server. Partitions of no job are not counted."""

    def __init__(self, most: int) -> None:
        self._most = most

    def begin(self, snapshot: Snapshot) -> CycleGate:
        return _JobGate(self._most, set(snapshot.running_jobs))


class _JobGate:
    def __init__(self, most: int, jobs: set[str]) -> None:
        self._most = most
        self._jobs = jobs

    def admit(self, gang: Gang) -> Gang | Reason:
        if not gang.job or gang.job in self._jobs or len(self._jobs) < self._most:
            return gang
        what = f"{self._most} job{'s run' if self._most > 1 else ' runs'}"
        return Reason(SchedulingReason.TOO_MANY_JOBS, f"{what}, as many as MAX_CONCURRENT_JOBS allows")

    def take(self, gang: Gang, shares: Sequence[TakenShare]) -> None:
        if gang.job:
            self._jobs.add(gang.job)


@dataclass(frozen=True, slots=True)
class Both:
    """Whom both admit."""

    first: QueueAdmission
    second: QueueAdmission

    def begin(self, snapshot: Snapshot) -> CycleGate:
        if isinstance(self.first, AdmitAll):
            return self.second.begin(snapshot)
        return _BothGates(self.first.begin(snapshot), self.second.begin(snapshot))


class _BothGates:
    def __init__(self, first: CycleGate, second: CycleGate) -> None:
        self._first = first
        self._second = second

    def admit(self, gang: Gang) -> Gang | Reason:
        found = self._first.admit(gang)
        return found if isinstance(found, Reason) else self._second.admit(found)

    def take(self, gang: Gang, shares: Sequence[TakenShare]) -> None:
        self._first.take(gang, shares)
        self._second.take(gang, shares)


class PreemptNone:
    """Every share lasts to its lease's end."""

    def begin(self, snapshot: Snapshot) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Policies:
    """What one cluster chose."""

    order: QueueOrder = field(default_factory=PriorityThenAge)
    admission: QueueAdmission = field(default_factory=AdmitAll)
    preemption: Preemption = field(default_factory=PreemptNone)
    promises: int = 0
    """How many gangs are promised a start that is kept from cycle to cycle. 0: what a cycle reserves it forgets, and
    the order must not change with time."""
    windows: Sequence[HeldWindow] = ()
    """What is held for some, beside what all the others decide."""
    lasts: Callable[[str, str, str], float | None] = lambda queue, user, job: None
    """The part of its lease that a job (queue, user, namespace/name) is expected to hold; None where nobody knows."""
    note: Callable[[Snapshot, Gang], Sequence[str]] = lambda snapshot, gang: ()
    """What `explain` says of a gang's place beyond the queue itself."""


DEFAULT = Policies()


def policies_of(max_jobs: int | None) -> Policies:
    """Those of a server on which so many jobs run at once; None: as many as find a place."""
    return DEFAULT if max_jobs is None else Policies(admission=MostJobs(max_jobs))
