"""What is said of a GPUNode."""

from __future__ import annotations

from datetime import datetime

from cumulus.clock import parse_timestamp
from cumulus.resources.columns import age, percent
from cumulus.resources.condition_types import NodeCondition
from cumulus.resources.documents import condition, lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import Column, Kind, by_condition, detail
from cumulus.resources.quantity import format_bytes

SILENT_SECONDS = 60.0
"""A heartbeat is written every 20 s, and after 40 s without one the controllers take Ready back: if they run."""


def node_status(node: Document, now: datetime) -> str:
    """How it is, and whether it is cordoned: `Ready,SchedulingDisabled` as kubectl says it."""
    state = node_state(node, now)
    return f"{state},SchedulingDisabled" if lookup(node, "spec.unschedulable") else state


def node_state(node: Document, now: datetime) -> str:
    """Ready, NotReady or Unknown; `Unknown (silent for 3h)` where nobody has heard of it for so long, whatever its
    condition says."""
    if is_silent(node, now):
        return f"Unknown (silent for {age(lookup(node, 'status.heartbeatTime'), now)})"
    return {"True": "Ready", "False": "NotReady"}.get(condition(node, NodeCondition.READY).get("status", ""), "Unknown")


def is_silent(node: Document, now: datetime) -> bool:
    """Whether nobody has heard of the node for longer than a daemon that runs would leave it called Ready."""
    heartbeat = lookup(node, "status.heartbeatTime")
    return bool(heartbeat) and (now - parse_timestamp(heartbeat)).total_seconds() >= SILENT_SECONDS


def node_devices(node: Document) -> str:
    """`2x NVIDIA H100 80Gi, 1x cpu 7.6Gi`: devices of one name and size are counted together."""
    counted: dict[tuple[str, int], int] = {}
    for device in devices(node):
        key = (device["name"], device["memoryBytes"])
        counted[key] = counted.get(key, 0) + 1
    return ", ".join(f"{count}x {name} {format_bytes(size)}" for (name, size), count in counted.items())


def node_free(node: Document) -> str:
    """What is free of each device, memory and compute: `40Gi 50%, 80Gi 100%`."""
    return ", ".join(f"{format_bytes(d['freeMemoryBytes'])} {percent(d['freeCompute'])}" for d in devices(node))


def leases(number: int) -> str:
    """`1 lease`, `2 leases`."""
    return f"{number} lease{'' if number == 1 else 's'}"


def devices(node: Document) -> list[Document]:
    return list(lookup(node, "status.devices") or ())


def node_condition(node: Document, type: str, now: datetime) -> str:
    """As it says; but of a node that was Ready when the last daemon ended, nobody knows how it is."""
    return "Unknown" if type == NodeCondition.READY and is_silent(node, now) else by_condition(node, type, now)


def node_summary(node: Document, now: datetime) -> str:
    """`NotReady (Unreachable: gpu-1 does not answer)`."""
    state = node_state(node, now)
    return state if state.startswith("Unknown (") else state + detail(condition(node, NodeCondition.READY))


KIND = Kind(
    "GPUNode",
    "gpunodes",
    ("nodes", "node", "no"),
    False,
    "cumulus.resources.node",
    (
        Column("STATUS", cell=lambda node, view: node_status(node, view.now), fit="whole", yields=0),
        Column("RUNTIMES", "status.runtimes", yields=4),
        Column("DEVICES", cell=lambda node, _: node_devices(node), yields=2),
        Column("FREE", cell=lambda node, _: node_free(node), yields=1),
        Column("HEARTBEAT", "status.heartbeatTime", form="age", wide=True, fit="whole", yields=3),
        Column("CHRONOS", "status.chronosVersion", wide=True, yields=6),
        Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=5),
    ),
    conditions=(NodeCondition.READY, NodeCondition.CONTAINERS_READY, NodeCondition.MPS_READY),
    condition_status=node_condition,
    state=node_summary,
)
