from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from cumulus.resources.device import Device
from cumulus.resources.enforcement import Enforcement
from cumulus.resources.quantity import Share
from cumulus.scheduling import fit
from cumulus.scheduling.claim import Demand, Filter
from cumulus.scheduling.snapshot import Node

GI = 2**30
DEVICE = Device(2, "", "NVIDIA H100 PCIe", "NVIDIA Corporation", "gpu", 80 * GI, enforcement=Enforcement.GUARDED)
NODE = Node("n1", True, "", False, {"zone": "a"}, ("process",), (DEVICE,))


@pytest.mark.parametrize(
    ("wanted", "code", "words"),
    [
        (Filter(), None, ""),
        (Filter(vendor="nvidia"), None, ""),
        (Filter(vendor="amd"), "NoMatchingDevice", "selector vendor amd does not match 'NVIDIA Corporation'"),
        (Filter(name="*H100*"), None, ""),
        (Filter(name="H100"), "NoMatchingDevice", "selector name H100 does not match 'NVIDIA H100 PCIe'"),
        (Filter(type="cpu"), "NoMatchingDevice", "selector type cpu does not match gpu"),
        (Filter(min_memory=80 * GI), None, ""),
        (Filter(min_memory=81 * GI), "NoMatchingDevice", "selector minMemory 81Gi is more than 80Gi"),
        (Filter(device=2), None, ""),
        (Filter(device=0), "NoMatchingDevice", "needs device 0, this is device 2"),
        (Filter(node="n1", avoid=(1,)), None, ""),
        (Filter(node="n1", avoid=(1, 2)), "NoMatchingDevice", "device 2 holds another share of the same replica"),
        (Filter(min_enforcement=Enforcement.GUARDED), None, ""),
        (Filter(min_enforcement=Enforcement.HARD), "EnforcementTooWeak",
         "needs enforcement hard, device 2 offers guarded"),
    ],
)  # fmt: skip
def test_a_device_matches_or_says_which_part_does_not(wanted: Filter, code: str | None, words: str) -> None:
    assert fit.device_mismatch(wanted, DEVICE) == (None if code is None else (code, words))


@pytest.mark.parametrize(
    ("wanted", "code", "words"),
    [
        (Filter(runtime="process", node_labels=(("zone", "a"),), node="n1"), None, ""),
        (Filter(runtime="container"), "RuntimeMissing", "needs the runtime container, the node offers process"),
        (Filter(node_labels=(("zone", "b"),)), "LabelMismatch", "needs the label zone=b, the node has zone=a"),
        (Filter(node_labels=(("rack", "7"),)), "LabelMismatch", "needs the label rack=7, the node has no label rack"),
        (Filter(node="n2"), "OtherNode", "is asked of the node n2"),
    ],
)
def test_a_node_matches_or_says_what_is_missing(wanted: Filter, code: str | None, words: str) -> None:
    assert fit.node_mismatch(wanted, NODE) == (None if code is None else (code, words))


def test_amd_is_found_under_its_full_name() -> None:
    radeon = Device(0, "", "gfx942", "Advanced Micro Devices, Inc.", "gpu", GI)
    assert fit.device_mismatch(Filter(vendor="amd"), radeon) is None


@pytest.mark.parametrize(
    ("memory", "compute", "capacity", "share"),
    [
        (Share(fraction=Decimal("0.5")), None, 80 * GI, (40 * GI, 500)),
        (Share(size=20 * GI), None, 80 * GI, (20 * GI, 250)),
        (Share(size=20 * GI), 900, 80 * GI, (20 * GI, 900)),
        (Share(size=1), None, 80 * GI, (1, 1)),
        (Share(fraction=Decimal("0.001")), None, 10, (1, 1)),
        (Share(fraction=Decimal("0.7")), None, 25276510208, (17693557145, 700)),
        (Share(size=81 * GI), None, 80 * GI, (81 * GI, 1000)),
    ],
)
def test_a_share_is_bytes_and_thousandths(
    memory: Share, compute: int | None, capacity: int, share: tuple[int, int]
) -> None:
    demand: Any = Demand(Filter(), memory, compute)
    assert fit.share_of(demand, capacity) == share


@pytest.mark.parametrize("parts", [1, 2, 3, 6, 7, 9, 11, 500, 1000])
def test_shares_that_fill_the_memory_never_need_more_than_the_whole_compute(parts: int) -> None:
    demand = Demand(Filter(), Share(size=80 * GI // parts), None)
    assert parts * fit.share_of(demand, 80 * GI)[1] <= 1000
