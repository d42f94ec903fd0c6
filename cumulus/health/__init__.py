"""Checks this machine: its state directory, the node that it is, and the programs beside it.

Each check is a function that yields findings, answers within its own time-out and changes nothing, but for files that
it removes again. They look at this machine, not through a client: a store that can't be opened is a finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from cumulus.health import control_plane, node, tools
from cumulus.health.finding import Finding, HealthCheck, examine

__all__ = ["Check", "Finding", "checks", "examine"]


def checks(home: Path) -> Mapping[str, HealthCheck]:
    """All of them, by name, for a state directory on this machine."""
    return {
        "state": partial(control_plane.state, home),
        "store": partial(control_plane.store, home),
        "daemon": partial(control_plane.daemon, home),
        "grpc": partial(control_plane.grpc, home),
        "ledger": node.ledger,
        "devices": node.devices,
        "kernels": node.kernels,
        "cgroups": node.cgroups,
        "docker": tools.docker,
        "owner": partial(tools.owner, home),
        "ssh": tools.ssh,
    }
