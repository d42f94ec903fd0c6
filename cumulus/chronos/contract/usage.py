"""What the leases of a device use of what they leased, as a node tells the control plane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class DeviceUse(NamedTuple):
    """The leases of one device, summed. Bytes of memory, thousandths of the device's compute.

    Only what is known counts: `told` is how many leases somebody knows the memory of. The unknown is neither used nor idle.
    """

    device: int
    told: int
    used_memory_bytes: int
    idle_memory_bytes: int
    used_compute: int
    idle_compute: int
    over: int
    """How many leases hold more memory than they leased."""


def device_uses(leases: Iterable[Mapping[str, Any]]) -> Sequence[DeviceUse]:
    """From the leases that `chronos_cli stats --json` prints, by device. Raises KeyError, TypeError."""
    found: dict[int, DeviceUse] = {}
    for lease in leases:
        device = lease["device"]
        one = found.get(device, DeviceUse(device, 0, 0, 0, 0, 0, 0))
        found[device] = DeviceUse(
            device,
            one.told + (lease["usedMemoryBytes"] is not None),
            one.used_memory_bytes + (lease["usedMemoryBytes"] or 0),
            one.idle_memory_bytes + (lease["idleMemoryBytes"] or 0),
            one.used_compute + (lease["usedCompute"] or 0),
            one.idle_compute + (lease["idleCompute"] or 0),
            one.over + bool(lease["over"]),
        )
    return [found[device] for device in sorted(found)]
