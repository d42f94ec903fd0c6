"""What would be lost with a node: the leases it holds, and what people decided about it."""

from __future__ import annotations

from collections.abc import Sequence

from cumulus.resources.columns import ENDED, devices
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.store.base import Query, Store


def holders(store: Store, name: str) -> list[Document]:
    """The partitions that have, or are about to have, a lease on the node."""
    found = store.list(Query("GPUPartition", fields=f"status.node={name}")).items
    return [partition for partition in found if lookup(partition, "status.phase") not in ENDED]


def leases(number: int) -> str:
    return "1 lease" if number == 1 else f"{number} leases"


def stakes(store: Store, node: Document) -> Sequence[str]:
    """What cannot be had back by discovery: `was added by hand`, `holds 2 leases, …`."""
    from cumulus.resources.node import CLUSTER_FINALIZER

    found = []
    if CLUSTER_FINALIZER in (node["metadata"].get("finalizers") or ()):
        found.append("is a machine of the Swarm, and leaves it")
    elif lookup(node, "spec.ssh"):
        found.append("was added by hand")
    if lookup(node, "spec.unschedulable"):
        found.append("is cordoned")
    held = len(holders(store, node["metadata"]["name"]))
    if held:
        found.append(f"holds {leases(held)}, which go on there while their jobs begin anew elsewhere")
    foreign = sum(len(device.get("foreignLeases") or ()) for device in devices(node))
    if foreign:
        found.append(f"holds {leases(foreign)} made on the node itself")
    return found
