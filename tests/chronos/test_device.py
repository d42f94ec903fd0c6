"""Discovery: the real OpenCL of this machine, and drivers played by programs on the PATH."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cumulus.chronos import device
from cumulus.chronos.contract import Device

GPU_ID = "GPU-2ad1c3a8-4f7e-5d11-9c3b-0c6b6f1f0a01"
SMI = f"{GPU_ID}, NVIDIA H100 80GB HBM3, 81559, 580.95.05, 00000000:18:00.0\n"
POCL = {
    "id": "Portable-Computing-Language/pthread/0",
    "name": "pthread",
    "vendor": "AMD",
    "type": "cpu",
    "memory_bytes": 2**34,
    "driver": "6",
    "platform_index": 0,
    "device_index": 0,
}
NVIDIA_OPENCL = {
    **POCL,
    "id": GPU_ID,
    "name": "NVIDIA H100 80GB HBM3",
    "vendor": "NVIDIA Corporation",
    "type": "gpu",
    "memory_bytes": 85_000_000_000,
    "platform_index": 1,
}


class Machine:
    """Puts an nvidia-smi and the answer of OpenCL in place."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self._patch = monkeypatch
        monkeypatch.setenv("PATH", f"{directory}:/bin:/usr/bin")
        monkeypatch.setattr(device, "_nvidia_driver_has_gpus", lambda: False)
        self.opencl([])

    def smi(self, body: str) -> None:
        program = self._directory / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)

    def opencl(self, rows: list[dict[str, object]]) -> None:
        answer = f"noise of a driver\n{device._ANSWER}{json.dumps({'devices': rows, 'unusable': []})}\n"
        probe = self._directory / "probe.py"
        probe.write_text(f"print({answer!r})")
        self._patch.setattr(device, "_PROBE", str(probe))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def brief(devices: list[Device]) -> list[tuple[int, str, str, int]]:
    return [(d.index, d.id, d.type, d.platform_index) for d in devices]


def test_the_real_opencl_of_this_machine_offers_its_cpu() -> None:
    found = device.read_opencl()
    cpus = [d for d in found if d.type == "cpu"]
    assert cpus
    assert cpus[0].memory_bytes > 2**28
    assert (cpus[0].platform_index, cpus[0].device_index) >= (0, 0)
    assert device.read_opencl()[0].id == found[0].id


def test_an_nvidia_gpu_is_found_without_its_opencl_driver(machine: Machine) -> None:
    machine.smi(f"echo '{SMI}'")
    machine.opencl([POCL])
    found = device.discover()
    assert brief(found) == [(0, GPU_ID, "gpu", -1), (1, POCL["id"], "cpu", 0)]
    assert found[0].memory_bytes == 81559 * 2**20
    assert (found[0].name, found[0].vendor, found[0].driver) == ("NVIDIA H100 80GB HBM3", "NVIDIA", "580.95.05")


def test_an_nvidia_gpu_is_not_counted_twice(machine: Machine) -> None:
    machine.smi(f"echo '{SMI}'")
    machine.opencl([POCL, NVIDIA_OPENCL])
    assert brief(device.discover()) == [(0, GPU_ID, "gpu", 1), (1, POCL["id"], "cpu", 0)]


def test_an_nvidia_gpu_is_known_by_its_address_where_opencl_tells_no_uuid(machine: Machine) -> None:
    machine.smi(f"echo '{SMI}'")
    address = SMI.rpartition(",")[2].strip().lower().removeprefix("0000")
    machine.opencl([POCL, {**NVIDIA_OPENCL, "id": f"pci-{address}"}])
    assert brief(device.discover()) == [(0, GPU_ID, "gpu", 1), (1, POCL["id"], "cpu", 0)]


def test_an_nvidia_gpu_is_found_by_opencl_alone(machine: Machine) -> None:
    machine.opencl([POCL, NVIDIA_OPENCL])
    assert brief(device.discover()) == [(0, GPU_ID, "gpu", 1), (1, POCL["id"], "cpu", 0)]


def test_the_cpu_is_one_device_however_many_drivers_offer_it(machine: Machine) -> None:
    machine.opencl([POCL, {**POCL, "id": "Intel/cpu/0", "platform_index": 1}])
    assert brief(device.discover()) == [(0, POCL["id"], "cpu", 0)]


def test_a_gpu_that_two_drivers_offer_is_one_device(machine: Machine) -> None:
    gpu = {**NVIDIA_OPENCL, "id": "pci-0000:03:00.0", "vendor": "AMD"}
    machine.opencl([gpu, {**gpu, "platform_index": 2}])
    assert brief(device.discover()) == [(0, "pci-0000:03:00.0", "gpu", 1)]


def test_a_driver_that_hangs_costs_no_more_than_its_time(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "TIMEOUT", 0.3)
    machine.smi("exec sleep 60")
    machine.opencl([POCL])
    assert brief(device.discover()) == [(0, POCL["id"], "cpu", 0)]


@pytest.mark.parametrize("body", ["exit 9", "kill -SEGV $$", "echo 'No devices were found'", "echo 'a, b'"])
def test_a_driver_that_fails_offers_nothing(machine: Machine, body: str) -> None:
    machine.smi(body)
    machine.opencl([POCL])
    assert brief(device.discover()) == [(0, POCL["id"], "cpu", 0)]


def test_the_cpu_is_not_offered_beside_a_gpu_whose_tools_fail(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_nvidia_driver_has_gpus", lambda: True)
    machine.smi("exit 9")
    machine.opencl([POCL])
    assert device.discover() == []
    assert "nvidia-smi" in device.explain_none()


def test_no_driver_at_all_is_explained(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.discover() == []
    assert "pip install 'pyopencl[pocl]'" in device.explain_none()


def test_discovery_leaves_this_process_without_a_driver() -> None:
    device.read_opencl()
    libraries = Path(f"/proc/{os.getpid()}/maps").read_text()
    assert "libOpenCL" not in libraries
