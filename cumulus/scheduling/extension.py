"""What a longer lease would move: the queue as it is planned now, against the queue with that lease. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cumulus.resources.key import Key
from cumulus.scheduling.cycle import Cycle
from cumulus.scheduling.explain import EXPLAIN_WORK
from cumulus.scheduling.policy import DEFAULT, Policies
from cumulus.scheduling.snapshot import Snapshot

_SLACK = timedelta(seconds=1)
"""A start that moves by less is the same: times are rounded on their way."""


@dataclass(frozen=True, slots=True)
class LaterStart:
    """Work that would start later than it is told now. `then` is None where nobody can say."""

    job: str
    """namespace/name, or the gang's name where it is no job's."""
    user: str
    told: datetime
    then: datetime | None


def moved(
    snapshot: Snapshot, partitions: Collection[Key], seconds: float, policies: Policies = DEFAULT
) -> list[LaterStart]:
    """Who would start later if the leases of these partitions ended so much later, in the order of the queue."""
    before = _starts(snapshot, policies)
    after = _starts(lengthened(snapshot, partitions, seconds), policies)
    gangs = {gang.name: gang for gang in snapshot.pending}
    found = []
    for name, told in before.items():
        then = after.get(name)
        if then is None or then > told + _SLACK:
            gang = gangs[name]
            found.append(LaterStart(gang.job or gang.name, gang.user, told, then))
    return found


def room(snapshot: Snapshot, partitions: Collection[Key], seconds: float, policies: Policies = DEFAULT) -> float:
    """The longest of those that were tried, up to `seconds`, that moves nobody; 0 where none was found."""
    held = [hold.returns_at for hold in snapshot.holds if hold.partition in partitions]
    waits = [each.told for each in moved(snapshot, partitions, seconds, policies)]
    if not held or not waits:
        return seconds if held else 0.0
    # Until the first of them is to start. What is free beside them may be more, or less.
    left = (min(waits) - max(held)).total_seconds()
    return left if left > 0 and not moved(snapshot, partitions, left, policies) else 0.0


def lengthened(snapshot: Snapshot, partitions: Collection[Key], seconds: float) -> Snapshot:
    """The snapshot as it would be then."""
    longer = timedelta(seconds=seconds)
    holds = (
        replace(hold, returns_at=hold.returns_at + longer) if hold.partition in partitions else hold
        for hold in snapshot.holds
    )
    return replace(snapshot, holds=tuple(holds))


def _starts(snapshot: Snapshot, policies: Policies) -> dict[str, datetime]:
    """When each gang of the queue starts as it is planned now, as far as that is worked out."""
    cycle, found = Cycle(snapshot, policies), {}
    for gang in cycle.queue:
        if cycle.bind(gang):
            found[gang.name] = snapshot.now
            continue
        refusal = cycle.refuse(gang)
        reservation = refusal.reservation
        if reservation is None and not refusal.hopeless and refusal.not_admitted is None:
            # Further back than a cycle keeps seats for: `why` tells it all the same.
            reservation = cycle.reserve(gang) if cycle.availability.work < EXPLAIN_WORK else None
        if reservation is not None:
            found[gang.name] = reservation.start
    return found
