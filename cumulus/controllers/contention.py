"""Whether somebody waits for a device, or holds it for later. A lease is renewed, and a turn goes on, only while nobody
does."""

from __future__ import annotations

from datetime import datetime, timedelta

from cumulus.controllers.partition_watches import LIVE
from cumulus.machinery.cache import Reader, readable
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.resources.quantity import parse_duration
from cumulus.resources.queue import Queue
from cumulus.resources.reservation import Reservation
from cumulus.scheduling import fit, windows
from cumulus.scheduling.claim import claim_of
from cumulus.scheduling.queues import Tree
from cumulus.scheduling.snapshot import build


def waited_for(reader: Reader, partition: GPUPartition, now: datetime) -> bool:
    """Whether some pending partition would do with the device that `partition` is on."""
    node = readable(reader, GPUNode, "", partition.status.node)
    if node is None:
        return False
    live = [readable(reader, GPUPartition, key.namespace, key.name) for key in reader.indexed(LIVE, "")]
    snapshot = build([node], [p for p in live if p is not None and p.waits], now)
    devices = [device for device in snapshot.nodes[0].devices if device.index == partition.status.device]
    demands = {member.demand for gang in snapshot.pending for member in gang.members}
    return any(
        fit.node_mismatch(demand.filter, snapshot.nodes[0]) is None
        and fit.device_mismatch(demand.filter, device) is None
        and fit.too_large(demand, device) is None
        for demand in demands
        for device in devices
    )


def free_for(reader: Reader, partition: GPUPartition, now: datetime) -> float | None:
    """Seconds until a lease on the device of `partition` has to end, since a reservation holds it for others from then
    on; None where none does."""
    place = (partition.status.node, partition.status.device)
    holding = [r for r in reader.all(Reservation) if place in {(d.node, d.device) for d in r.status.devices}]
    if not holding:
        return None
    claim = claim_of(partition)
    held = windows.held(holding, Tree(reader.all(Queue)), now)
    starts = [w.start for w in held if place in w.places and not w.admits(claim.queue, claim.user)]
    if not starts:
        return None
    return (min(starts) - timedelta(seconds=parse_duration(partition.spec.grace_period)) - now).total_seconds()
