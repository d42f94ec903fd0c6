"""Chronos, the part on each node: leases of this machine's GPUs, with an end. It runs on a worker without the rest.

`from cumulus.chronos import Partitioner` is the way in from Python, `chronos_cli` from a shell. Names are loaded when
first used, since supervisors of jobs import modules of this package and must stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cumulus.chronos.ledger import Ledger
    from cumulus.chronos.partitioner import Partition, Partitioner, PartitionInfo

__all__ = ["Ledger", "Partition", "PartitionInfo", "Partitioner"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in ("Partitioner", "Partition", "PartitionInfo"):
        return getattr(import_module("cumulus.chronos.partitioner"), name)
    if name == "Ledger":
        return import_module("cumulus.chronos.ledger").Ledger
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
