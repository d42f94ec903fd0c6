"""What is said of a GPUPartition."""

from __future__ import annotations

from cumulus.resources.columns import until
from cumulus.resources.condition_types import PartitionCondition
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import Column, Kind, View

ENDED = frozenset({"Expired", "Released", "Failed"})
"""The phases of a partition whose lease is over."""


def ends_in(partition: Document, view: View) -> str:
    if lookup(partition, "status.phase") in ENDED:
        return "ended"
    moment = lookup(partition, "status.expiresAt")
    return until(moment, view.now) if moment else ""


KIND = Kind(
    "GPUPartition",
    "gpupartitions",
    ("partitions", "partition", "parts", "part", "gp"),
    True,
    "cumulus.resources.partition",
    (
        Column("PHASE", "status.phase", fit="whole", yields=0),
        Column("NODE", "status.node", yields=2),
        Column("DEVICE", "status.device", yields=4),
        Column("MEMORY", "status.memoryBytes", form="bytes", yields=1),
        Column("ENFORCEMENT", "status.enforcement", yields=6),
        Column("ENDS IN", cell=ends_in, fit="whole", yields=0),
        Column("COMPUTE", "status.compute", form="millis", wide=True, yields=5),
        Column("USER", "spec.user", wide=True, yields=3),
        Column("PARTITION-ID", "status.partitionId", wide=True, fit="whole", yields=7),
        Column("TOKEN", "status.fencingToken", wide=True, yields=8),
        Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=5),
    ),
    selected=frozenset({"status.node"}),
    work=True,
    conditions=tuple(PartitionCondition),
    final_phases=ENDED,
    phase_rests_on=((PartitionCondition.ENDED, True), (PartitionCondition.BOUND, False)),
)
