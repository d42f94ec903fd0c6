"""An OpenCL library asked by its C interface: this machine's, and one that the test compiles, which also plays that of
macOS. Not run on a Mac."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cumulus.chronos import device, opencl_library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    made = tmp_path_factory.mktemp("opencl") / "OpenCL.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", made, Path(__file__).with_name("opencl.c")], check=True)
    return made


@pytest.fixture
def played(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Discovery on a Mac with that library."""
    monkeypatch.setattr(device.sys, "platform", "darwin")
    monkeypatch.setattr(opencl_library, "APPLE", str(library))
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.mark.usefixtures("played")
def test_devices_of_a_library_are_found() -> None:
    gpu, cpu = device.discover()
    assert (gpu.index, gpu.id, gpu.name, gpu.type) == (0, "Apple/Apple-M1-/0", "Apple M1", "gpu")
    assert (cpu.index, cpu.id, cpu.memory_bytes, cpu.driver) == (1, "Apple/Apple-M1-CPU/0", 2**34, "1.2 1.0")
    assert (gpu.platform_index, gpu.device_index, cpu.device_index) == (0, 1, 0)


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize(
    ("offered", "gpu", "cpu"),
    [
        # The same UUID says nothing of a CPU, which has an address of its own.
        ("uuid nvidia amd", "uuid-2ad1c3a8-0000-0000-0000-000000000000", "pci-0001:18:00.0"),
        ("nvidia amd", "pci-0001:18:00.0", "pci-0001:18:00.0"),
        ("amd", "pci-0000:c1:03.2", "pci-0000:c1:03.2"),
    ],
)
def test_the_best_id_that_a_driver_offers_is_taken(
    offered: str, gpu: str, cpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCL_IDS", offered)
    assert {d.type: d.id for d in device.read_opencl()} == {"gpu": gpu, "cpu": cpu}


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize("function", ["clCreateContext", "clCreateProgramWithSource", "clBuildProgram"])
def test_a_cpu_that_cannot_compile_is_not_offered(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCL_REFUSES", function)
    assert [d.type for d in device.discover()] == ["gpu"]
    assert device._probe()["unusable"] == ["Apple (Apple M1 CPU)"]


def test_without_a_library_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.sys, "platform", "darwin")
    monkeypatch.setattr(opencl_library, "APPLE", "/nowhere/OpenCL")
    monkeypatch.setenv("PATH", "/nowhere")
    assert device.discover() == []
    assert device.explain_none() == "Apple's OpenCL offers no device"


_AS_PYOPENCL_SAYS = """
import json
import pyopencl as cl

print(json.dumps([
    [p, d, f"{platform.name}/{device.name}/0".replace(" ", "-"), device.name.strip(), device.vendor.strip(),
     device.global_mem_size, device.driver_version.strip()]
    for p, platform in enumerate(cl.get_platforms()) for d, device in enumerate(platform.get_devices())
    if device.type & cl.device_type.CPU and cl.Program(cl.Context([device]), "kernel void k() {}").build()
]))
"""


def test_pyopencl_says_the_same_of_the_cpus_of_this_machine() -> None:
    """A job selects its device with pyopencl's numbers."""
    output = subprocess.run([sys.executable, "-c", _AS_PYOPENCL_SAYS], capture_output=True, text=True, check=True)
    found = [
        [d.platform_index, d.device_index, d.id, d.name, d.vendor, d.memory_bytes, d.driver]
        for d in device.read_opencl()
        if d.type == "cpu"
    ]
    assert found == json.loads(output.stdout.splitlines()[-1])
    assert found
