"""Free room in pieces: whether a gang would fit now if one other lease were on another device. It is told, not done:
nobody is moved."""

from __future__ import annotations

import glob
from collections import Counter
from dataclasses import replace

from cumulus.resources.quantity import Share
from cumulus.scheduling.assign import assign
from cumulus.scheduling.availability import Availability
from cumulus.scheduling.claim import Demand, Filter
from cumulus.scheduling.snapshot import Gang, Hold, Member, Snapshot
from cumulus.scheduling.timeline import MICROSECOND, microseconds
from cumulus.scheduling.windows import Windows

MOST = 16
"""Leases that are tried, the smallest first."""
WORK = 20_000
"""Leases that are looked at for all of them."""


def would_fit_if(snapshot: Snapshot, windows: Windows, gang: Gang) -> str:
    """Which lease stands in the way where there is room for it on another device; "" where there is none, or where it
    would take too long to say. For a gang that was refused, and that nobody is ahead of."""
    shares = Counter(hold.job for hold in snapshot.holds)
    # What runs on several devices has its place as a whole.
    alone = (hold for hold in snapshot.holds if not hold.job or shares[hold.job] == 1)
    candidates = [hold for hold in alone if hold.partition is not None and not hold.ports]
    candidates.sort(key=lambda hold: (hold.memory_bytes, hold.compute, hold.node, hold.device, hold.partition or ()))
    for hold in candidates[: min(MOST, WORK // max(1, len(snapshot.holds)))]:
        place = _place_for(snapshot, windows, gang, hold)
        if place is not None:
            node, device = place
            return f"{hold.holder} were on device {device} of {node} instead of device {hold.device} of {hold.node}"
    return ""


def _place_for(snapshot: Snapshot, windows: Windows, gang: Gang, hold: Hold) -> tuple[str, int] | None:
    """Where that lease could be, on a device of the same model, so that the gang fits now."""
    rest = replace(snapshot, holds=tuple(other for other in snapshot.holds if other is not hold), pending=())
    availability = Availability(rest)
    if not availability.has(hold.node, hold.device):
        return None
    windows.copied(availability, gang)
    length = microseconds(gang.seconds)
    seats = assign(availability, gang, 0, length)
    left = (hold.returns_at - snapshot.now) // MICROSECOND
    if seats is None or left <= 0 or hold.partition is None:
        return None
    for seat in seats:
        availability.take(seat.slot, length, seat.memory, seat.compute)
    model = availability.slot(hold.node, hold.device).device.name
    demand = Demand(Filter(name=glob.escape(model)), Share(size=hold.memory_bytes), hold.compute)
    moved = Gang(
        hold.job, (Member(hold.partition, "", demand, 0),), left / 1e6, 0, snapshot.now, hold.job, hold.user,
        queue=hold.queue,
    )  # fmt: skip
    found = assign(availability, moved, 0, left)
    return None if found is None else found[0].slot.place
