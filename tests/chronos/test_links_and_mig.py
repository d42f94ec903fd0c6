"""How GPUs are linked, and MIG instances, as a stand-in for NVIDIA's library says."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.chronos import device, nvml_devices
from cumulus.chronos.contract import Device, wire
from cumulus.chronos.ledger import Ledger
from cumulus.resources.device import Link
from tests.chronos.test_device import Machine, brief, machine
from tests.standin_nvml import GIB, StandInNvml

__all__ = ["machine"]

FOUR = {f"GPU-{n}": 80 * GIB for n in range(4)}
LINKS = {
    # Pairs with NVLink; 0 and 2 are below one switch, everything else is at the other CPU.
    "GPU-0": ("nvlink 1", "ancestor 2 20", "ancestor 3 50"),
    "GPU-1": ("nvlink 0", "ancestor 2 50", "ancestor 3 50"),
    "GPU-2": ("nvlink 3", "ancestor 0 10", "ancestor 1 50"),
    "GPU-3": ("nvlink 2", "ancestor 0 50", "ancestor 1 50"),
}
MIG = (
    "mig", f"instance MIG-a {int(9.5 * GIB)} 1 1", f"instance MIG-b {int(39.25 * GIB)} 3 1",
    "profile 0 1 9728 19", "placement 19 1 0 1 2 3 4 5 6", "profile 2 3 40192 9", "placement 9 4 0 4",
)  # fmt: skip


class Driver(StandInNvml):
    """The library and nvidia-smi of a machine with two GPUs, or with those that are named."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self._patch = monkeypatch
        self.has({"GPU-0": 80 * GIB, "GPU-1": 80 * GIB})

    def has(self, gpus: dict[str, int]) -> None:
        super().__init__(self._directory, gpus)
        self._patch.setenv("LD_LIBRARY_PATH", str(self._directory))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(tmp_path, monkeypatch)


def test_links_are_told_for_each_device_the_fastest_first(machine: Machine, driver: Driver) -> None:
    driver.has(FOUR)
    for gpu, lines in LINKS.items():
        driver.say(gpu, *lines)
    found = device.discover()
    assert [d.links for d in found] == [
        ((Link.NVLINK, (1,)), (Link.PCIE_SWITCH, (2,)), (Link.SYSTEM, (3,))),
        ((Link.NVLINK, (0,)), (Link.SYSTEM, (2, 3))),
        ((Link.NVLINK, (3,)), (Link.PCIE_SWITCH, (0,)), (Link.SYSTEM, (1,))),
        ((Link.NVLINK, (2,)), (Link.SYSTEM, (0, 1))),
    ]
    assert [wire.read_device(wire.device_json(d)) for d in found] == found


def test_a_library_that_does_not_start_tells_no_links(machine: Machine, driver: Driver) -> None:
    driver.head("broken")
    assert [d.links for d in device.discover()] == [(), ()]


def test_the_ledger_keeps_links_by_device_whatever_their_numbers(home: Path) -> None:
    found = [
        Device(0, "GPU-a", "H100", "NVIDIA", "gpu", 80 * GIB, links=((Link.NVLINK, (1,)),)),
        Device(1, "GPU-b", "H100", "NVIDIA", "gpu", 80 * GIB, links=((Link.NVLINK, (0,)),)),
    ]
    ledger = Ledger(home, discover=lambda: found, start_monitor=False)
    assert [d.links for d in ledger.devices()] == [((Link.NVLINK, (1,)),), ((Link.NVLINK, (0,)),)]
    ledger.close()
    new = Device(0, "GPU-c", "H100", "NVIDIA", "gpu", 80 * GIB, links=((Link.SYSTEM, (1, 2)),))
    moved = [new, *(Device(n + 1, d.id, d.name, d.vendor, d.type, d.memory_bytes, links=((Link.NVLINK, (2 - n,)),))
                    for n, d in enumerate(found))]  # fmt: skip
    ledger = Ledger(home, discover=lambda: moved, start_monitor=False)
    again = {d.id: (d.index, d.links) for d in ledger.rediscover()}
    assert again == {
        "GPU-a": (0, ((Link.NVLINK, (1,)),)), "GPU-b": (1, ((Link.NVLINK, (0,)),)),
        "GPU-c": (2, ((Link.SYSTEM, (0, 1)),)),
    }  # fmt: skip
    ledger.close()


def test_the_ledger_keeps_of_which_gpu_an_instance_is(home: Path) -> None:
    found = [Device(0, "MIG-a", "H100 MIG 1g.10gb", "NVIDIA", "gpu", 10 * GIB, parent="GPU-0"),
             Device(1, "GPU-1", "H100", "NVIDIA", "gpu", 80 * GIB)]  # fmt: skip
    for _ in range(2):
        ledger = Ledger(home, discover=lambda: found, start_monitor=False)
        assert [d.parent for d in ledger.devices()] == ["GPU-0", ""]
        ledger.close()


def test_mig_instances_are_devices_and_their_gpu_is_none(machine: Machine, driver: Driver) -> None:
    driver.say("GPU-0", *MIG)
    found = device.discover()
    assert brief(found) == [(0, "MIG-a", "gpu", -1), (1, "MIG-b", "gpu", -1), (2, "GPU-1", "gpu", -1)]
    assert [d.parent for d in found] == ["GPU-0", "GPU-0", ""]
    assert [wire.read_device(wire.device_json(d)) for d in found] == found
    assert [(d.name, d.memory_bytes) for d in found[:2]] == [
        ("Stand-in MIG 1g.10gb", int(9.5 * GIB)), ("Stand-in MIG 1c.3g.40gb", int(39.25 * GIB)),
    ]  # fmt: skip
    assert found[0].driver == "580.1"


def test_a_gpu_in_mig_mode_tells_where_instances_can_be(driver: Driver) -> None:
    driver.say("GPU-0", *MIG, "taken 19 0", "taken 9 4")
    told = nvml_devices.read().mig["GPU-0"]
    assert told.taken == ((0, 1), (4, 4))
    assert told.profiles == (
        nvml_devices.Profile("1g.10gb", 9728 * 2**20, tuple((start, 1) for start in range(7))),
        nvml_devices.Profile("3g.40gb", 40192 * 2**20, ((0, 4), (4, 4))),
    )


def test_a_gpu_in_mig_mode_without_instances_is_explained(machine: Machine, driver: Driver) -> None:
    driver.has({"GPU-0": 80 * GIB})
    driver.say("GPU-0", "mig")
    assert device.discover() == []
    assert "nvidia-smi mig -cgi" in device.explain_none()


def test_where_instances_are_may_be_told_to_administrators_alone(driver: Driver) -> None:
    driver.say("GPU-0", *MIG, "secret")
    assert nvml_devices.read().mig["GPU-0"].taken is None
