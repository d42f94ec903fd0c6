"""Whether somebody waits for a device. A lease is renewed, and a turn goes on, only while nobody does."""

from __future__ import annotations

from datetime import datetime

from cumulus.controllers.partition_watches import LIVE
from cumulus.machinery.cache import Reader, readable
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.scheduling import fit
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
