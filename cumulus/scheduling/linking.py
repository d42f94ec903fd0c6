"""How well devices are linked: NVLink before PCIe before what nobody told of, and all of that before the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cumulus.resources.device import Device, Link

SAME = 0
"""One device."""
FASTEST = 1
"""NVLink, or one device."""

_RANKS = {link: rank for rank, link in enumerate(Link, 1)}
_UNKNOWN = len(Link) + 1
_WORDS = {
    Link.NVLINK: "linked by NVLink",
    Link.PCIE_SWITCH: "linked by a PCIe switch",
    Link.HOST_BRIDGE: "linked by PCIe through one CPU",
    Link.NUMA_NODE: "linked by PCIe through one CPU",
    Link.SYSTEM: "linked by PCIe through several CPUs",
}


def rank(one: Device, other: Device) -> int:
    """Of two devices of one node: the smaller, the faster."""
    if one.index == other.index:
        return SAME
    for link, devices in one.links:
        if other.index in devices:
            return _RANKS[link]
    return _UNKNOWN


def worst(devices: Sequence[Device]) -> int:
    """The slowest link among devices of one node."""
    return max((rank(a, b) for i, a in enumerate(devices) for b in devices[i + 1 :]), default=SAME)


def all_alike(devices: Iterable[Device]) -> bool:
    """Whether it does not matter which of them are taken: each has one kind of link at most, the same."""
    kinds = {device.links[0][0] if len(device.links) == 1 else None for device in devices if device.links}
    return len(kinds) <= 1 and None not in kinds


def words(places: Iterable[tuple[str, Device]]) -> str:
    """How the devices are linked, each given with its node: "linked by NVLink"; "" where there is one, or where nobody
    knows."""
    distinct = {(node, device.index): device for node, device in places}
    if len({node for node, _ in distinct}) > 1:
        return "linked by the network"
    found = worst(list(distinct.values()))
    return next((_WORDS[link] for link, rank in _RANKS.items() if rank == found), "")
