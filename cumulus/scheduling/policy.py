"""The replaceable choices of a scheduling cycle: who goes first, who may be placed, who yields.

Each is a protocol with today's behaviour as its default. Policies are pure: what they decide follows from the snapshot.
`explain` must run the same ones as the cycle that places, or its promises hold for another queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

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

    def refusal(self, gang: Gang, snapshot: Snapshot) -> Reason | None:
        """Why the gang may not be placed now: it waits without a reservation. None where it may."""
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

    def refusal(self, gang: Gang, snapshot: Snapshot) -> Reason | None:
        return None


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
