"""The contract of a lease: all that the control plane and a node's Chronos must agree on. Standard library only.

Shares are whole numbers: memory in bytes, compute in thousandths of a device. This package has the values;
`wire` is their JSON (`chronos_cli --json`), `commands` the requests as command lines, `session` the protocol of
`chronos_cli serve`, `variables` what a program is told of its leases.

Outside of `cumulus.chronos` only this package is imported, and `cumulus.chronos.local` by the programs that run on
the node itself.
"""

from cumulus.chronos.contract.lease import (
    EndReason,
    Lease,
    LeasedTotal,
    LeaseRequest,
    Leases,
    LeaseState,
    ParkRefusal,
    Prepares,
)
from cumulus.chronos.contract.node import Figures, Health, NodeFacts, UnleasedProcess
from cumulus.chronos.contract.parking import Parking, Parks, Proof
from cumulus.chronos.contract.policy import PolicyChange
from cumulus.resources.device import FULL_COMPUTE, Device

__all__ = [
    "FULL_COMPUTE",
    "Device",
    "EndReason",
    "Figures",
    "Health",
    "Lease",
    "LeaseRequest",
    "LeaseState",
    "LeasedTotal",
    "Leases",
    "NodeFacts",
    "ParkRefusal",
    "Parking",
    "Parks",
    "PolicyChange",
    "Prepares",
    "Proof",
    "UnleasedProcess",
]  # fmt: skip
