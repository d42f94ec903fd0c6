"""What leases use of what they leased, as a node tells the control plane: one by one, and of each device together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class LeaseUse(NamedTuple):
    """One lease: bytes of memory, thousandths of the device's compute. What nobody knows is None."""

    id: str
    device: int
    memory_bytes: int
    used_memory_bytes: int | None
    idle_memory_bytes: int | None
    """Leased and not used."""
    compute: int
    used_compute: int | None
    idle_compute: int | None
    over: bool
    """Whether it holds more memory than it leased."""


class LeasedUse(NamedTuple):
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


def lease_uses(leases: Iterable[Mapping[str, Any]]) -> Sequence[LeaseUse]:
    """From the leases that `chronos_cli stats --json` prints. Raises KeyError, TypeError."""
    return [
        LeaseUse(
            lease["partitionId"], lease["device"], lease["memoryBytes"], lease["usedMemoryBytes"],
            lease["idleMemoryBytes"], lease["compute"], lease["usedCompute"], lease["idleCompute"],
            bool(lease["over"]),
        )
        for lease in leases
    ]  # fmt: skip


def device_uses(leases: Iterable[LeaseUse]) -> Sequence[LeasedUse]:
    """Those of each device together."""
    by_device: dict[int, list[LeaseUse]] = {}
    for lease in leases:
        by_device.setdefault(lease.device, []).append(lease)
    return [
        LeasedUse(
            device,
            _sum(lease.used_memory_bytes for lease in some),
            _sum(lease.idle_memory_bytes for lease in some),
            _sum(lease.used_compute for lease in some),
            _sum(lease.idle_compute for lease in some),
            sum(lease.over for lease in some),
        )
        for device, some in sorted(by_device.items())
    ]


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
