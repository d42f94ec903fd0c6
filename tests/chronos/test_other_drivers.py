"""AMD's and Intel's GPUs, policed through stand-ins for their libraries that answer as their headers say."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cumulus.chronos import level_zero, rocm_smi
from cumulus.chronos.device_processes import DeviceHeld, DeviceProcesses
from cumulus.clock import SystemClock

SOURCES = Path(__file__).parents[1] / "standin_smi"
GIB = 2**30


@pytest.mark.parametrize(
    ("source", "library", "device"),
    [
        ("rocm.c", rocm_smi.LIBRARY, "pci-0000:03:00.0"),
        ("sysman.c", level_zero.LIBRARY, "pci-0000:04:00.0"),
    ],
)
def test_what_each_process_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, library: str, device: str
) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    flags = ["-shared", "-fPIC", "-Wall", "-Werror", f"-DPID={os.getpid()}"]
    subprocess.run([compiler, *flags, str(SOURCES / source), "-o", str(tmp_path / library)], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    reader = DeviceProcesses(SystemClock())
    try:
        found = reader.look([device, "pci-0000:0f:00.0"])
        figures = reader.figures([device], 0.0)
    finally:
        reader.close()
    assert found == {device: DeviceHeld(6 * GIB, {os.getpid(): 5 * GIB})}
    assert figures is not None
    assert figures[device].used_bytes == 6 * GIB


def test_without_any_library_nothing_is_told() -> None:
    reader = DeviceProcesses(SystemClock())
    try:
        assert reader.look(["GPU-a", "pci-0000:03:00.0"]) == {}
    finally:
        reader.close()
