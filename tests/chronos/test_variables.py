"""Which devices a program is told to use."""

from __future__ import annotations

import pytest

from cumulus.chronos.contract import variables


@pytest.fixture(autouse=True)
def registered_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCL_ICD_VENDORS", "/etc/OpenCL/vendors/")


def test_nvidias_opencl_counts_only_the_visible_devices() -> None:
    assert variables.selection([("GPU-b", 1, 3)]) == {"CUDA_VISIBLE_DEVICES": "GPU-b", "PYOPENCL_CTX": "1:0"}
    assert variables.selection([("GPU-b", 1, 3), ("GPU-a", 1, 0), ("GPU-b", 1, 3)]) == {
        "CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a",
        "PYOPENCL_CTX": "1:0,1",
    }


def test_others_keep_their_numbers() -> None:
    assert variables.selection([("pci-0000:03:00.0", 0, 2)]) == {"PYOPENCL_CTX": "0:2"}
    assert variables.selection([("pci-0000:03:00.0", 0, 2), ("GPU-a", 1, 1)]) == {
        "CUDA_VISIBLE_DEVICES": "GPU-a",
        "PYOPENCL_CTX": "0:2",
    }


def test_without_opencl_cuda_alone_is_told() -> None:
    assert variables.selection([("GPU-a", -1, -1)]) == {"CUDA_VISIBLE_DEVICES": "GPU-a"}
