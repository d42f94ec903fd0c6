"""The replaceable choices of a scheduling cycle: who goes first, who may be placed, who yields.

Each is a protocol with today's behaviour as its default. Policies are pure: what they decide follows from the snapshot.
`explain` must run the same ones as the cycle that places, or its promises hold for another queue.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cumulus.resources.reasons import SchedulingReason
from cumulus.scheduling.fit import Reason
from cumulus.scheduling.snapshot import Gang, Hold, Snapshot


class QueueOrder(Protocol):
    """Who goes first."""

    def arrange(self, snapshot: Snapshot) -> Sequence[Gang]:
        """The gangs of `snapshot.pending`, each once, in the order in which they are considered. Two calls with equal
        snapshots must agree, whatever the order in which the gangs are handed over."""
        ...


class QueueAdmission(Protocol):
    """Who may be placed at all, whatever is free: a quota, a closed queue."""

    def refusal(self, gang: Gang, snapshot: Snapshot, bound: Collection[str]) -> Reason | None:
        """Why the gang may not be placed now: it waits without a reservation. None where it may. `bound`: the jobs that
        this cycle has given shares to, which the snapshot does not have."""
        ...


class Preemption(Protocol):
    """Who must yield to a gang that waits."""

    def victims(self, gang: Gang, snapshot: Snapshot) -> Sequence[Hold]:
        """The shares to take back so that the gang, which does not fit now, can start."""
        ...


class PriorityThenAge:
    """A higher priority first, then who joined the queue earlier. The rest of a gang that is bound in part, as after a
    crash amid the writing, goes before all: its shares are taken for nothing until it is whole."""

    def arrange(self, snapshot: Snapshot) -> Sequence[Gang]:
        return sorted(snapshot.pending, key=lambda gang: (not gang.started, -gang.priority, gang.since, gang.name))


class AdmitAll:
    """Whoever waits may be placed."""

    def refusal(self, gang: Gang, snapshot: Snapshot, bound: Collection[str]) -> Reason | None:
        return None


class MostJobs:
    """At most so many jobs have shares at once, of the whole server. Partitions of no job are not counted."""

    def __init__(self, most: int) -> None:
        self._most = most

    def refusal(self, gang: Gang, snapshot: Snapshot, bound: Collection[str]) -> Reason | None:
        running = snapshot.running_jobs
        if not gang.job or gang.job in running or len(running) + len(bound) < self._most:
            return None
        what = f"{self._most} job{'s run' if self._most > 1 else ' runs'}"
        return Reason(SchedulingReason.TOO_MANY_JOBS, f"{what}, as many as MAX_CONCURRENT_JOBS allows")


class PreemptNone:
    """Every share lasts to its lease's end."""

    def victims(self, gang: Gang, snapshot: Snapshot) -> Sequence[Hold]:
        return ()


@dataclass(frozen=True, slots=True)
class Policies:
    """What one cluster chose."""

    order: QueueOrder = field(default_factory=PriorityThenAge)
    admission: QueueAdmission = field(default_factory=AdmitAll)
    preemption: Preemption = field(default_factory=PreemptNone)


DEFAULT = Policies()


def policies_of(max_jobs: int | None) -> Policies:
    """Those of a server on which so many jobs run at once; None: as many as find a place."""
    return DEFAULT if max_jobs is None else Policies(admission=MostJobs(max_jobs))
