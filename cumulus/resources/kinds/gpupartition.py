"""The registry's entry for GPUPartition."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cumulus.clock import parse_timestamp, to_the_second
from cumulus.resources.columns import percent, until
from cumulus.resources.condition_types import PartitionCondition
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import CellView, Column, Kind
from cumulus.resources.quantity import format_bytes
from cumulus.resources.roles import Role
from cumulus.resources.sections import Fields, Section, Surroundings, flat, moment

ENDED = frozenset({"Expired", "Released", "Failed"})
"""The phases of a partition whose lease is over."""


def ends_in(partition: Document, view: CellView) -> str:
    if lookup(partition, "status.phase") in ENDED:
        return "ended"
    moment = lookup(partition, "status.expiresAt")
    return until(moment, view.now) if moment else ""


def lost_gpu_hours(partition: Document, now: datetime) -> float:
    """How long it has been leased: whoever leased it may use it all the time."""
    since = lookup(partition, "status.activatedAt")
    if lookup(partition, "status.phase") != "Active" or not since:
        return 0.0
    return max(0.0, (now - parse_timestamp(since)).total_seconds()) / 3600


def sections(partition: Document, around: Surroundings) -> Iterator[Section]:
    status, now = partition.get("status") or {}, around.now
    expires = status.get("expiresAt")
    yield Fields(
        [
            ("Phase", status.get("phase", "Pending")),
            ("Node", status.get("node", "")),
            ("Device", _device(status)),
            ("Memory", format_bytes(status["memoryBytes"]) if status.get("memoryBytes") else ""),
            ("Compute", percent(status["compute"]) if status.get("compute") else ""),
            ("Enforcement", status.get("enforcement", "")),
            ("Partition ID", status.get("partitionId", "")),
            ("Fencing token", str(status.get("fencingToken") or "")),
            ("Active since", moment(status.get("activatedAt"), now)),
            (
                "Ends",
                f"{to_the_second(expires)} (in {until(expires, now)})"
                if expires and status.get("phase") in ("Active", "Parked")
                else to_the_second(expires or ""),
            ),
            ("Taken back", _taken_back(status.get("reclaim"))),
            ("Parked", parked_words(status, now)),
            ("Ended", moment(status.get("endedAt"), now)),
        ]
    )
    yield Fields(flat(partition.get("spec") or {}), "Spec")


def _taken_back(reclaim: Document | None) -> str:
    return f"{to_the_second(reclaim['at'])}, for {reclaim.get('job') or reclaim['gang']}" if reclaim else ""


def parked_words(status: Document, now: datetime) -> str:
    """Of a program in main memory: `since 2030-01-01T11:50:00Z (10m ago), 12 GiB of main memory`."""
    parked = status.get("parked")
    if not parked or status.get("phase") not in ("Parked", "Unparking"):
        return ""
    size = f", {format_bytes(parked['memoryBytes'])} of main memory" if parked.get("memoryBytes") else ""
    return f"since {moment(parked['since'], now)}{size}"


def _device(status: Document) -> str:
    if status.get("device") is None:
        return ""
    name = status.get("deviceName")
    return f"{status['device']}, {name}" if name else str(status["device"])


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
    writers=Role.USER,
    work=True,
    noun="partition",
    remembered_as="lease",
    waits=True,
    own_grace_period=True,
    sealed=frozenset({"spec.until", "spec.park", "status.queue", "status.share", "status.promise", "status.reclaim"}),
    lost_gpu_hours=lost_gpu_hours,
    sections=sections,
    conditions=tuple(PartitionCondition),
    final_phases=ENDED,
    failed_phases=frozenset({"Failed"}),
    phase_rests_on=((PartitionCondition.ENDED, True), (PartitionCondition.BOUND, False)),
)
