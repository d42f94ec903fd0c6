"""One description of a device, on the node and in its GPUNode."""

from __future__ import annotations

from decimal import Decimal

import pytest

from cumulus.resources.device import FULL_COMPUTE, Device, Slice, counted_share, slice_of
from cumulus.resources.enforcement import Enforcement
from cumulus.resources.node import DeviceStatus
from cumulus.resources.quantity import Share

H100 = Device(1, "GPU-1", "NVIDIA H100", "NVIDIA", "gpu", 80, "550.1", Enforcement.HARD, 2, 3, 79)


def test_a_status_gives_back_the_device_that_it_was_made_of() -> None:
    status = DeviceStatus.of(H100, free=Slice(30, 400))
    assert status.device == H100
    assert (status.free_memory_bytes, status.free_compute) == (30, 400)


def test_a_device_that_will_not_be_resized_comes_back_so() -> None:
    settled = Device(0, "pci-1", "CPU", "Intel", "cpu", 8)
    status = DeviceStatus.of(settled, free=settled.whole)
    assert status.next_memory_bytes is None
    assert status.device == settled


@pytest.mark.parametrize(
    ("share", "compute", "taken"),
    [
        (Share(fraction=Decimal(1)), None, Slice(80, FULL_COMPUTE)),
        (Share(fraction=Decimal("0.1")), None, Slice(8, 100)),
        (Share(size=20), None, Slice(20, 250)),
        (Share(size=20), 700, Slice(20, 700)),
        (Share(size=90), None, Slice(90, FULL_COMPUTE)),
        (Share(fraction=Decimal("0.0001")), None, Slice(1, 1)),
    ],
)
def test_what_a_share_takes_of_a_device(share: Share, compute: int | None, taken: Slice) -> None:
    assert slice_of(80, share, compute) == taken


@pytest.mark.parametrize(
    ("memory_bytes", "compute", "device_memory", "counted"),
    [
        (20, 500, 80, 500),
        (40, 250, 80, 500),
        (1, 0, 3, 334),
        (80, FULL_COMPUTE, 80, FULL_COMPUTE),
        # A device of unknown size: its compute is all that is known.
        (20, 125, 0, 125),
    ],
)
def test_the_larger_part_of_a_device_counts(memory_bytes: int, compute: int, device_memory: int, counted: int) -> None:
    assert counted_share(memory_bytes, compute, device_memory) == counted
