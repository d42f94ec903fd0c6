"""What NVIDIA's driver says of its GPUs beyond their sizes: how they reach each other, and their MIG instances. NVML
through ctypes, in a process of its own with a time-out.

NVML: docs.nvidia.com/deploy/nvml-api. The MIG mode of a GPU is only ever read. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

if __name__ == "__main__":
    # Run by path: neither site-packages nor the working directory is on sys.path (-I).
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../..")]

from cumulus.chronos.nvml import TIMEOUT, Memory, Nvml
from cumulus.resources.device import Link

_P2P_NVLINK, _P2P_OK = 2, 0
_ENABLED = 1
_PROFILES = 32
"""NVML numbers the profiles of GPU instances from 0; it has 17 by now, and says of others that it has none such."""
_ANCESTORS = {0: Link.PCIE_SWITCH, 10: Link.PCIE_SWITCH, 20: Link.PCIE_SWITCH, 30: Link.HOST_BRIDGE, 40: Link.NUMA_NODE}
"""By nvmlGpuTopologyLevel_t: the nearest thing that two GPUs are both below."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A MIG instance that is there."""

    id: str
    profile: str
    """As the driver calls it, such as 1g.10gb."""
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of GPU instance that a GPU in MIG mode can have."""

    name: str
    memory_bytes: int
    placements: tuple[tuple[int, int], ...]
    """Where on the GPU it can be: (first slice, slices of memory)."""


@dataclass(frozen=True, slots=True)
class Mig:
    """Of one GPU in MIG mode."""

    instances: tuple[Instance, ...] = ()
    profiles: tuple[Profile, ...] = ()
    taken: tuple[tuple[int, int], ...] | None = ()
    """Where GPU instances are, as placements are told; None where that is told to administrators alone."""


@dataclass(frozen=True, slots=True)
class NvmlFindings:
    """`links`: by UUID, how a GPU reaches each other one. `mig`: by UUID, the GPUs that are in MIG mode."""

    links: Mapping[str, Mapping[str, Link]] = field(default_factory=dict)
    mig: Mapping[str, Mig] = field(default_factory=dict)


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("multiprocessors", ctypes.c_uint), ("copy_engines", ctypes.c_uint), ("decoders", ctypes.c_uint),
        ("encoders", ctypes.c_uint), ("jpegs", ctypes.c_uint), ("ofas", ctypes.c_uint),
        ("gpu_slices", ctypes.c_uint), ("compute_slices", ctypes.c_uint), ("memory_mib", ctypes.c_uint64),
    ]  # fmt: skip


class _ProfileInfo(ctypes.Structure):
    _fields_ = [
        ("id", ctypes.c_uint), ("p2p", ctypes.c_uint), ("slices", ctypes.c_uint), ("instances", ctypes.c_uint),
        ("multiprocessors", ctypes.c_uint), ("copy_engines", ctypes.c_uint), ("decoders", ctypes.c_uint),
        ("encoders", ctypes.c_uint), ("jpegs", ctypes.c_uint), ("ofas", ctypes.c_uint), ("memory_mib", ctypes.c_uint64),
    ]  # fmt: skip


class _Placement(ctypes.Structure):
    _fields_ = [("start", ctypes.c_uint), ("size", ctypes.c_uint)]


class _InstanceInfo(ctypes.Structure):
    _fields_ = [
        ("device", ctypes.c_void_p), ("id", ctypes.c_uint), ("profile", ctypes.c_uint), ("placement", _Placement),
    ]  # fmt: skip


class _Library(Nvml):
    """Asked for what discovery wants to know beyond sizes."""

    def link(self, one: ctypes.c_void_p, other: ctypes.c_void_p) -> Link | None:
        """None where it does not tell."""
        status, level = ctypes.c_uint(), ctypes.c_uint()
        told = self.tells("nvmlDeviceGetP2PStatus", one, other, _P2P_NVLINK, ctypes.byref(status))
        if told and status.value == _P2P_OK:
            return Link.NVLINK
        if not self.tells("nvmlDeviceGetTopologyCommonAncestor", one, other, ctypes.byref(level)):
            return None
        return _ANCESTORS.get(level.value, Link.SYSTEM)

    def mig(self, handle: ctypes.c_void_p) -> Mig | None:
        """None where the GPU is not in MIG mode."""
        now, pending = ctypes.c_uint(), ctypes.c_uint()
        told = self.tells("nvmlDeviceGetMigMode", handle, ctypes.byref(now), ctypes.byref(pending))
        if not told or now.value != _ENABLED:
            return None
        return Mig(tuple(self._instances(handle)), tuple(self._profiles(handle)), self._taken(handle))

    def _instances(self, handle: ctypes.c_void_p) -> Iterator[Instance]:
        count = ctypes.c_uint()
        self.tells("nvmlDeviceGetMaxMigDeviceCount", handle, ctypes.byref(count))
        for index in range(count.value):
            mig, memory, attributes = ctypes.c_void_p(), Memory(), _Attributes()
            if not self.tells("nvmlDeviceGetMigDeviceHandleByIndex", handle, index, ctypes.byref(mig)):
                continue
            told = self.tells("nvmlDeviceGetMemoryInfo", mig, ctypes.byref(memory))
            if not self.tells("nvmlDeviceGetAttributes_v2", mig, ctypes.byref(attributes)) and not told:
                continue
            size = memory.total if told else attributes.memory_mib * 2**20
            yield Instance(self.uuid(mig), _called(attributes, size), size)

    def _known(self, handle: ctypes.c_void_p) -> Iterator[_ProfileInfo]:
        for number in range(_PROFILES):
            info = _ProfileInfo()
            if self.tells("nvmlDeviceGetGpuInstanceProfileInfo", handle, number, ctypes.byref(info)):
                yield info

    def _taken(self, handle: ctypes.c_void_p) -> tuple[tuple[int, int], ...] | None:
        found = []
        for profile in self._known(handle):
            count, there = ctypes.c_uint(), (ctypes.c_void_p * max(1, profile.instances))()
            if not self.tells("nvmlDeviceGetGpuInstances", handle, profile.id, there, ctypes.byref(count)):
                return None
            for instance in there[: count.value]:
                info = _InstanceInfo()
                if not self.tells("nvmlGpuInstanceGetInfo", ctypes.c_void_p(instance), ctypes.byref(info)):
                    return None
                found.append((info.placement.start, info.placement.size))
        return tuple(sorted(found))

    def _profiles(self, handle: ctypes.c_void_p) -> Iterator[Profile]:
        for info in self._known(handle):
            count = ctypes.c_uint()
            name = "nvmlDeviceGetGpuInstancePossiblePlacements_v2"
            if not self.tells(name, handle, info.id, None, ctypes.byref(count)) or not count.value:
                continue
            places = (_Placement * count.value)()
            if self.tells(name, handle, info.id, places, ctypes.byref(count)):
                size = info.memory_mib * 2**20
                found = tuple((place.start, place.size) for place in places[: count.value])
                yield Profile(f"{info.slices}g.{_gigabytes(size)}gb", size, found)


def _called(attributes: _Attributes, size: int) -> str:
    """1g.10gb; where the GPU instance is divided once more, 1c.2g.20gb."""
    part = attributes.compute_slices
    own = f"{part}c." if 0 < part < attributes.gpu_slices else ""
    return f"{own}{attributes.gpu_slices}g.{_gigabytes(size)}gb"


def _gigabytes(size: int) -> int:
    """As profiles are named: a little less is there, since the driver keeps some for itself."""
    return -(-size // 2**30)


def read() -> NvmlFindings:
    """Nothing where there is no NVIDIA driver, or where it does not answer in time."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=TIMEOUT, check=True,
        )  # fmt: skip
        said = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return NvmlFindings()
    return NvmlFindings(
        {one: {other: Link(link) for other, link in others.items()} for one, others in said["links"].items()},
        {uuid: _read_mig(*parts) for uuid, parts in said["mig"].items()},
    )


def _read_mig(
    instances: Sequence[Sequence[Any]], profiles: Sequence[Sequence[Any]], taken: Sequence[Sequence[int]] | None
) -> Mig:
    made = tuple(Profile(name, size, tuple((s, n) for s, n in places)) for name, size, places in profiles)
    there = None if taken is None else tuple((s, n) for s, n in taken)
    return Mig(tuple(Instance(*fields) for fields in instances), made, there)


def main() -> None:
    """Print what `read` reads."""
    library = _Library()
    devices = library.handles()
    links: dict[str, dict[str, Link]] = {}
    for one, handle in devices.items():
        found = {other: library.link(handle, theirs) for other, theirs in devices.items() if other != one}
        links[one] = {other: link for other, link in found.items() if link is not None}
    mig = {}
    for uuid, handle in devices.items():
        if (has := library.mig(handle)) is not None:
            instances = [[i.id, i.profile, i.memory_bytes] for i in has.instances]
            mig[uuid] = instances, [[p.name, p.memory_bytes, p.placements] for p in has.profiles], has.taken
    print(json.dumps({"links": links, "mig": mig}))


if __name__ == "__main__":
    main()
