"""Discovery on macOS: an OpenCL library by its C interface, played by one that the test compiles. Not run on a Mac."""

from __future__ import annotations

import shutil
import subprocess
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


def test_devices_of_a_library_are_found(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.sys, "platform", "darwin")
    monkeypatch.setattr(opencl_library, "APPLE", str(library))
    monkeypatch.setenv("PATH", "/nowhere")
    gpu, cpu = device.discover()
    assert (gpu.index, gpu.id, gpu.name, gpu.type) == (0, "Apple/Apple-M1/0", "Apple M1", "gpu")
    assert (cpu.index, cpu.id, cpu.memory_bytes, cpu.driver) == (1, "Apple/Apple-M1-CPU/0", 2**34, "1.2 1.0")
    assert (gpu.platform_index, gpu.device_index, cpu.device_index) == (0, 1, 0)


def test_without_a_library_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.sys, "platform", "darwin")
    monkeypatch.setattr(opencl_library, "APPLE", "/nowhere/OpenCL")
    monkeypatch.setenv("PATH", "/nowhere")
    assert device.discover() == []
    assert device.explain_none() == "Apple's OpenCL offers no device"
