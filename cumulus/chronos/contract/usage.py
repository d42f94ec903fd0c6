"""What the leases of a device use of what they leased, as a node tells the control plane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class DeviceUse(NamedTuple):
    """The leases of one device, summed: bytes of memory, thousandths of the device's compute.

    Leases of which nobody knows it are left out; None where that is so of all.
    """

    device: int
    used_memory_bytes: int | None
    idle_memory_bytes: int | None
    """Leased and not used."""
    used_compute: int | None
    idle_compute: int | None
    over: int
    """How many leases hold more memory than they leased."""


def device_uses(leases: Iterable[Mapping[str, Any]]) -> Sequence[DeviceUse]:
    """From the leases that `chronos_cli stats --json` prints, by device. Raises KeyError, TypeError."""
    by_device: dict[int, list[Mapping[str, Any]]] = {}
    for lease in leases:
        by_device.setdefault(lease["device"], []).append(lease)
    return [
        DeviceUse(
            device,
            _sum(lease["usedMemoryBytes"] for lease in some),
            _sum(lease["idleMemoryBytes"] for lease in some),
            _sum(lease["usedCompute"] for lease in some),
            _sum(lease["idleCompute"] for lease in some),
            sum(bool(lease["over"]) for lease in some),
        )
        for device, some in sorted(by_device.items())
    ]


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
