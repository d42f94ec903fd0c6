"""What people do to nodes, and what would be lost with one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds.gpunode import devices
from cumulus.resources.kinds.gpupartition import ENDED
from cumulus.resources.query import Query
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects

if TYPE_CHECKING:
    from cumulus.service.answers import NodeStakes


class Nodes:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def cordon(self, identity: Identity, name: str, *, unschedulable: bool) -> bool:
        """Place nothing new on the node, or place jobs on it again. Whether there was something to change. Raises
        NotFound."""

        def change(node: Document) -> Document:
            if bool(lookup(node, "spec.unschedulable")) == unschedulable:
                return node
            return {**node, "spec": {**(node.get("spec") or {}), "unschedulable": unschedulable}}

        return self._objects.edit(identity, Key("GPUNode", "", name), change)[1]

    def holders(self, identity: Identity, name: str) -> list[Document]:
        """The partitions that have, or are about to have, a lease on the node."""
        found = self._objects.list(identity, Query("GPUPartition", fields=f"status.node={name}")).items
        return [partition for partition in found if lookup(partition, "status.phase") not in ENDED]

    def stakes(self, identity: Identity, name: str) -> NodeStakes:
        """What cannot be had back by discovery. Raises NotFound."""
        from cumulus.resources.node import CLUSTER_FINALIZER
        from cumulus.service.answers import NodeStakes

        node = self._objects.get(identity, Key("GPUNode", "", name))
        in_swarm = CLUSTER_FINALIZER in (node["metadata"].get("finalizers") or ())
        return NodeStakes(
            in_swarm=in_swarm,
            added_by_hand=not in_swarm and bool(lookup(node, "spec.ssh")),
            cordoned=bool(lookup(node, "spec.unschedulable")),
            leases=len(self.holders(identity, name)),
            foreign_leases=sum(len(device.get("foreignLeases") or ()) for device in devices(node)),
        )
