"""Gangs, and jobs with several devices, go where their devices are linked best."""

from __future__ import annotations

import pytest

from cumulus.resources.device import Link
from cumulus.resources.node import DeviceLink, DeviceStatus, GPUNode
from cumulus.scheduling.cycle import place
from cumulus.scheduling.explain import explain
from cumulus.scheduling.snapshot import build
from tests.scheduling.build import NOW, device, gang, held, node, pending

PAIRS = ((0, 3), (1, 2))


def paired(index: int, pairs: tuple[tuple[int, int], ...] = PAIRS, count: int = 4) -> DeviceStatus:
    """A device of a machine whose devices have NVLink in pairs, and PCIe beside that."""
    mate = next(a + b - index for a, b in pairs if index in (a, b))
    others = tuple(n for n in range(count) if n not in (index, mate))
    links = (DeviceLink(over=Link.NVLINK, devices=(mate,)), DeviceLink(over=Link.SYSTEM, devices=others))
    return device(index, links=links)


def linked(name: str, link: Link) -> GPUNode:
    """A machine with two devices."""
    return node(name, *(device(n, links=(DeviceLink(over=link, devices=(1 - n,)),)) for n in range(2)))


def placed(nodes: list[GPUNode], *partitions: object) -> dict[int, list[tuple[str, int]]]:
    """The places of each group."""
    plan = place(build(nodes, partitions, NOW))  # type: ignore[arg-type]
    found: dict[int, list[tuple[str, int]]] = {}
    for binding in plan.bindings:
        group = int(binding.partition.name.split("-r")[1].split("-")[0])
        found.setdefault(group, []).append((binding.node, binding.device))
    return {group: sorted(places) for group, places in found.items()}


def test_two_replicas_take_two_devices_with_nvlink_between_them() -> None:
    machine = node("n1", *(paired(n) for n in range(4)))
    assert placed([machine], *gang("g", 2, memory="80Gi")) == {0: [("n1", 0)], 1: [("n1", 3)]}


def test_a_device_in_use_leaves_the_pair_that_is_whole() -> None:
    machine = node("n1", *(paired(n) for n in range(4)))
    busy = held(pending("busy", "80Gi"), device=3, memory=80, compute=1000)
    assert placed([machine], busy, *gang("g", 2, memory="80Gi")) == {0: [("n1", 1)], 1: [("n1", 2)]}


def test_each_replica_of_two_devices_gets_a_pair() -> None:
    machine = node("n1", *(paired(n) for n in range(4)))
    assert placed([machine], *gang("g", 2, 2, memory="80Gi")) == {
        0: [("n1", 0), ("n1", 3)], 1: [("n1", 1), ("n1", 2)],
    }  # fmt: skip


def test_a_job_of_two_devices_goes_to_the_node_that_links_them() -> None:
    nodes = [linked("n1", Link.SYSTEM), linked("n2", Link.NVLINK), linked("n3", Link.NVLINK)]
    assert placed(nodes, *gang("g", 1, 2, memory="80Gi")) == {0: [("n2", 0), ("n2", 1)]}


def test_one_node_is_better_than_two_that_would_fit_more_tightly() -> None:
    nodes = [linked(name, Link.SYSTEM) for name in ("n1", "n2", "n3")]
    tight = [held(pending(f"busy{n}", "40Gi"), f"n{n}", 0, memory=40, compute=500) for n in (1, 2)]
    whole = [held(pending(f"full{n}", "80Gi"), f"n{n}", 1, memory=80, compute=1000) for n in (1, 2)]
    found = placed(nodes, *tight, *whole, *gang("g", 2, memory="41Gi"))
    assert found == {0: [("n3", 0)], 1: [("n3", 1)]}


def test_what_fits_on_no_one_node_is_placed_all_the_same() -> None:
    nodes = [linked("n1", Link.NVLINK), linked("n2", Link.NVLINK)]
    assert sum(map(len, placed(nodes, *gang("g", 3, memory="80Gi")).values())) == 3


def test_a_gang_that_is_spread_is_spread() -> None:
    nodes = [linked("n1", Link.NVLINK), linked("n2", Link.NVLINK)]
    found = placed(nodes, *gang("g", 2, memory="80Gi", placement="Spread"))
    assert {places[0][0] for places in found.values()} == {"n1", "n2"}


@pytest.mark.parametrize(
    ("nodes", "replicas", "said"),
    [
        ([linked("n1", Link.NVLINK)], 2, "device 0 of n1, device 1 of n1, linked by NVLink"),
        ([linked("n1", Link.SYSTEM)], 2, "device 0 of n1, device 1 of n1, linked by PCIe through several CPUs"),
        ([node("n1"), node("n2")], 2, "device 0 of n1, device 0 of n2, linked by the network"),
        ([node("n1", device(0), device(1))], 2, "device 0 of n1, device 1 of n1"),
        ([linked("n1", Link.NVLINK)], 1, "device 0 of n1"),
    ],
)
def test_why_says_how_they_are_linked(nodes: list[GPUNode], replicas: int, said: str) -> None:
    partitions = gang("g", replicas, memory="80Gi")
    found = explain(build(nodes, partitions, NOW), partitions[0].key)
    assert found is not None
    assert found.headline == f"fits now, on {said}"
