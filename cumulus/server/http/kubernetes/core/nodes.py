"""GPUNodes as the Nodes of core/v1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from cumulus.resources.condition_types import NodeCondition
from cumulus.resources.documents import condition, lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import Column
from cumulus.resources.kinds import gpunode
from cumulus.resources.kinds.gpunode import devices, is_silent, node_condition, node_status
from cumulus.server.http.kubernetes.core.view import KEPT, ComputedKind, routes

DEVICES = "cumulus.dev/devices"
"""Resource of a node: how many devices it has."""
DEVICE_MEMORY = "cumulus.dev/device-memory"
"""Resource of a node and of what runs there: memory of devices, in bytes."""
HOSTNAME_LABEL = "kubernetes.io/hostname"
_CORDONED = "node.kubernetes.io/unschedulable"


def nodes_of(node: Document, now: datetime) -> Sequence[Document]:
    metadata = node["metadata"]
    cordoned = bool(lookup(node, "spec.unschedulable"))
    hostname = lookup(node, "status.hostname") or metadata["name"]
    there = {DEVICES: str(len(devices(node))), DEVICE_MEMORY: str(sum(d["memoryBytes"] for d in devices(node)))}
    taints = {"taints": [{"key": _CORDONED, "effect": "NoSchedule"}], "unschedulable": True} if cordoned else {}
    return (
        {
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                **{field: metadata[field] for field in KEPT if field in metadata},
                "labels": {HOSTNAME_LABEL: hostname, **(metadata.get("labels") or {})},
            },
            "spec": taints,
            "status": {
                "addresses": [{"type": "Hostname", "address": hostname}],
                "capacity": there, "allocatable": there,
                "conditions": list(_conditions(node, now)),
                "nodeInfo": {
                    "machineID": "", "systemUUID": "", "bootID": lookup(node, "status.bootId") or "",
                    "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "",
                    "kubeletVersion": _version(node), "kubeProxyVersion": "", "operatingSystem": "linux",
                    "architecture": "",
                },
            },
        },
    )  # fmt: skip


def _version(node: Document) -> str:
    version = lookup(node, "status.chronosVersion")
    return f"chronos-{version}" if version else ""


def _conditions(node: Document, now: datetime) -> Iterator[Document]:
    heartbeat = lookup(node, "status.heartbeatTime")
    for found in lookup(node, "status.conditions") or ():
        told = {"status": node_condition(node, found["type"], now), "lastHeartbeatTime": heartbeat}
        if found["type"] == NodeCondition.READY and is_silent(node, now):
            told |= {"reason": "NodeStatusUnknown", "message": "nobody has heard of the node"}
        yield {name: value for name, value in {**found, **told}.items() if name != "observedGeneration"}
    if not condition(node, NodeCondition.READY):
        yield {"type": str(NodeCondition.READY), "status": "Unknown", "reason": "NodeStatusNeverUpdated", "message": ""}


VIEW = ComputedKind(
    "Node",
    "nodes",
    False,
    (
        Column("STATUS", cell=lambda node, view: _status(node, view.now)),
        Column("ROLES", cell=lambda *_: "<none>"),
        Column("AGE", "metadata.creationTimestamp", form="age"),
        Column("VERSION", "status.nodeInfo.kubeletVersion"),
    ),
    gpunode.KIND.name,
    nodes_of,
    "nodes are a view of gpunodes: change the gpunode of the same name, or use `cumulus node`",
)
ROUTES = routes(VIEW)


def _status(node: Document, now: datetime) -> str:
    """As of the GPUNode, whose conditions these are."""
    return node_status({**node, "status": {"conditions": node["status"]["conditions"]}}, now)
