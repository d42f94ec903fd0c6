"""When gangs that wait are expected to start: the cycle again, with each lease ending as early as those of its user and
name have ended before. It starts where its whole lease has room all the same: before a drain, say, as placement asks.
No promise: what was measured says nothing certain of the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from cumulus.scheduling.cycle import Cycle
from cumulus.scheduling.policy import Policies
from cumulus.scheduling.snapshot import Gang, Hold, Snapshot
from cumulus.scheduling.usage import expected_end

LOOKED_AT = 200
"""Gangs that are looked at, from the front of the queue."""
WORK = 400_000
"""Devices that are looked at one by one."""


def expected_starts(snapshot: Snapshot, policies: Policies, most: int = LOOKED_AT) -> Mapping[str, datetime]:
    """By gang, for those near the front of the queue."""
    holds = tuple(_hold(hold, snapshot.now, policies) for hold in snapshot.holds)
    pending = tuple(_gang(gang, policies) for gang in snapshot.pending)
    cycle = Cycle(replace(snapshot, holds=holds, pending=pending), replace(policies, promises=0))
    found: dict[str, datetime] = {}
    for gang in cycle.queue[:most]:
        if cycle.bind(gang):
            found[gang.name] = snapshot.now
            continue
        if cycle.not_admitted is not None or cycle.availability.work > WORK:
            continue
        reservation = cycle.reserve(gang)
        if reservation is not None:
            found[gang.name] = reservation.start
    return found


def _hold(hold: Hold, now: datetime, policies: Policies) -> Hold:
    part = policies.lasts(hold.queue, hold.user, hold.job) if hold.since is not None else None
    if hold.since is None or part is None or hold.returns_at <= now:
        return hold
    return replace(hold, returns_at=expected_end(hold.since, hold.returns_at, now, part))


def _gang(gang: Gang, policies: Policies) -> Gang:
    part = policies.lasts(gang.queue, gang.user, gang.job)
    return gang if part is None else replace(gang, given_back_after=max(1.0, gang.seconds * part))
