"""Words for what would be lost with a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cumulus.resources.kinds.gpunode import leases

if TYPE_CHECKING:
    from cumulus.client.base import NodeStakes


def stakes(found: NodeStakes) -> list[str]:
    """`was added by hand`, `holds 2 leases, …`; nothing where discovery brings all of it back."""
    said = []
    if found.in_swarm:
        said.append("is a machine of the Swarm, and leaves it")
    elif found.added_by_hand:
        said.append("was added by hand")
    if found.cordoned:
        said.append("is cordoned")
    if found.leases:
        said.append(f"holds {leases(found.leases)}, which go on there while their jobs begin anew elsewhere")
    if found.foreign_leases:
        said.append(f"holds {leases(found.foreign_leases)} made on the node itself")
    return said
