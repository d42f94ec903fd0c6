"""A device, and the parts of it that can be leased: the one description that nodes and controllers share.

A lease takes a `Slice`: the whole device or a part of it. A MIG instance is a device of its own. Memory is in bytes,
compute in thousandths of the device. Standard library only; Chronos uses it alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from cumulus.resources.enforcement import Enforcement
from cumulus.resources.quantity import Share

FULL_COMPUTE = 1000
"""Thousandths of a device's compute that make a whole device."""


class Link(StrEnum):
    """How a device reaches another one's memory, the fastest first."""

    NVLINK = "NVLink"
    PCIE_SWITCH = "PCIeSwitch"
    HOST_BRIDGE = "HostBridge"
    NUMA_NODE = "NUMANode"
    SYSTEM = "System"


class Slice(NamedTuple):
    """A part of a device."""

    memory_bytes: int
    compute: int


@dataclass(frozen=True, slots=True)
class Device:
    """One device. `memory_bytes` follows what the driver says, but never below what is leased."""

    index: int
    id: str
    """Stable across reboots: a PCI address or UUID where there is one, else platform/name/ordinal."""
    name: str
    vendor: str
    type: str
    """gpu, cpu or accelerator."""
    memory_bytes: int
    driver: str = ""
    enforcement: Enforcement = Enforcement.NONE
    platform_index: int = -1
    """OpenCL platform and device numbers for selecting it, -1 where it is not an OpenCL device."""
    device_index: int = -1
    next_memory_bytes: int = 0
    """The size that it has once no lease lives there, as the driver says now; 0 where that is `memory_bytes`."""
    links: tuple[tuple[Link, tuple[int, ...]], ...] = ()
    """How it reaches other devices of its node, by their indices, as far as the driver tells."""
    parent: str = ""
    """Of a MIG instance, the id of its GPU, which is no device itself."""

    @property
    def whole(self) -> Slice:
        """All of it."""
        return Slice(self.memory_bytes, FULL_COMPUTE)

    @property
    def is_instance(self) -> bool:
        """Whether it is a MIG instance, a part of a GPU that the GPU itself keeps apart from the others."""
        return self.id.startswith("MIG-")

    def enforcement_of(self, memory_bytes: int, compute: int) -> Enforcement:
        """How strongly a share of that size is enforced. Hardware keeps devices apart, and not what shares one."""
        if self.enforcement is Enforcement.HARD and (memory_bytes, compute) != self.whole:
            return Enforcement.GUARDED
        return self.enforcement


def slice_of(memory_bytes: int, share: Share, compute: int | None = None) -> Slice:
    """The slice that a share takes of a device with `memory_bytes`, as `amounts_of` says."""
    return Slice(*amounts_of(memory_bytes, share, compute))


def amounts_of(memory_bytes: int, share: Share, compute: int | None = None) -> tuple[int, int]:
    """Bytes and thousandths of compute that a share takes of a device with `memory_bytes`, which may be more than all
    of it. A plain tuple, since a scheduling cycle asks a hundred thousand times.

    `compute` None is as great a part as of the memory, rounded down so that shares which fill the memory never need
    more than the whole compute. At least one byte, and one thousandth.
    """
    memory = max(1, share.of(memory_bytes))
    if compute is not None:
        return memory, compute
    if share.fraction is not None:
        # As it was written: 0.1 is 10 % of compute, whatever a tenth of the memory rounds to.
        return memory, max(1, int(share.fraction * FULL_COMPUTE))
    return memory, max(1, min(FULL_COMPUTE, memory * FULL_COMPUTE // max(1, memory_bytes)))


def counted_share(memory_bytes: int, compute: int, device_memory: int) -> int:
    """What an amount of a device counts, in thousandths of it: the larger of its parts of memory and compute.
    Quotas, users and reports count this."""
    of_memory = -(-memory_bytes * FULL_COMPUTE // device_memory) if device_memory > 0 else 0
    return max(of_memory, compute)
