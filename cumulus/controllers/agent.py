"""NodeAgent: how the controllers reach one node. The manager is given one for each node it looks after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cumulus.chronos.lease import Leases


@dataclass(frozen=True, slots=True)
class NodeAgent:
    """`leases` is the node's lease authority, in this process (the ledger) or over the network."""

    name: str
    """The GPUNode's name."""
    leases: Leases
    runtimes: tuple[str, ...] = ("process",)
    """What the node can run: process, container."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that discovery puts on the node; those that people add stay."""
    hostname: str = ""
    boot_id: str = ""
    chronos_version: str = ""
