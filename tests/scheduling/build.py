"""Short ways to write nodes, partitions and gangs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cumulus.resources.meta import Condition, ObjectMeta
from cumulus.resources.node import DeviceStatus, ForeignLease, GPUNode, GPUNodeSpec, GPUNodeStatus
from cumulus.resources.partition import GPUPartition, GPUPartitionSpec, GPUPartitionStatus, PartitionPhase

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
GI = 2**30


def at(seconds: float) -> str:
    """RFC 3339 text of `seconds` after NOW."""
    return (NOW + timedelta(seconds=seconds)).isoformat()


def device(index: int = 0, memory: int = 80, **fields: Any) -> DeviceStatus:
    """A device of `memory` GiB."""
    fields = {"name": "NVIDIA H100", "vendor": "NVIDIA Corporation", "enforcement": "hard"} | fields
    return DeviceStatus(index=index, memory_bytes=memory * GI, **fields)


def node(
    name: str = "n1", *devices: DeviceStatus, ready: bool = True, cordoned: bool = False, **fields: Any
) -> GPUNode:
    said = (
        Condition(type="Ready", status="True")
        if ready
        else Condition(type="Ready", status="False", reason="HeartbeatLost", message="no heartbeat for 40s")
    )
    return GPUNode(
        kind="GPUNode",
        metadata=ObjectMeta(name=name, labels=fields.pop("labels", {})),
        spec=GPUNodeSpec(unschedulable=cordoned),
        status=GPUNodeStatus(
            conditions=(said,), runtimes=fields.pop("runtimes", ("process",)), devices=devices or (device(),), **fields
        ),
    )


def foreign(memory: int, seconds: float, compute: int = 100, **fields: Any) -> ForeignLease:
    fields = {"partition_id": "made-by-hand", "user": "eve"} | fields
    return ForeignLease(memory_bytes=memory * GI, compute=compute, expires_at=at(seconds), **fields)


def pending(name: str, memory: str = "20Gi", *, age: float = 0, **spec: Any) -> GPUPartition:
    """A pending partition made `age` seconds before NOW."""
    spec = {"duration": "1h", "grace_period": "0s"} | spec
    return GPUPartition(
        kind="GPUPartition",
        metadata=ObjectMeta(name=name, namespace="default", uid=f"uid-{name}", creation_timestamp=at(-age)),
        spec=GPUPartitionSpec(memory=memory, **spec),
    )


def gang(
    name: str, replicas: int, count: int = 1, memory: str = "20Gi", *, age: float = 0, **spec: Any
) -> list[GPUPartition]:
    """The pending partitions of a job of `replicas` with `count` devices each."""
    return [
        pending(
            f"{name}-r{replica}-d{index}", memory, age=age, **spec,
            gang={"name": name, "size": replicas * count, "group": replica, "since": at(-age)},
        )
        for replica in range(replicas)
        for index in range(count)
    ]  # fmt: skip


def held(
    partition: GPUPartition, node: str = "n1", device: int = 0, *, memory: int = 20, compute: int = 250,
    ends: float | None = 600, phase: PartitionPhase = PartitionPhase.ACTIVE,
) -> GPUPartition:  # fmt: skip
    """The partition as bound to a device, its lease ending `ends` seconds after NOW (None: not granted yet)."""
    status = GPUPartitionStatus(
        phase=phase, node=node, device=device, memory_bytes=memory * GI, compute=compute,
        expires_at=None if ends is None else at(ends), partition_id=partition.metadata.uid or "",
    )  # fmt: skip
    return partition.replace(status=status)
