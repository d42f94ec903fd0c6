"""What each process holds of AMD's GPUs, as ROCm SMI says: librocm_smi64 through ctypes. Standard library only.

The calls are those of rocm_smi.h (ROCm 5 and 6). Untested on hardware: no such GPU was at hand; the tests have a
library that answers as the header says. Devices are named as Chronos names them, by PCI address.
"""

from __future__ import annotations

import ctypes
from typing import Any

LIBRARY = "librocm_smi64.so"
_VRAM = 0


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint32), ("pasid", ctypes.c_uint32), ("vram", ctypes.c_uint64), ("sdma", ctypes.c_uint64),
        ("occupancy", ctypes.c_uint32),
    ]  # fmt: skip


class RocmSmi:
    """The library, in this process. Raises OSError where it is not there or does not start."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(LIBRARY)
        self._call("rsmi_init", ctypes.c_uint64(0))
        count = ctypes.c_uint32()
        self._call("rsmi_num_monitor_devices", ctypes.byref(count))
        self._numbers: dict[str, int] = {}
        for number in range(count.value):
            address = ctypes.c_uint64()
            self._call("rsmi_dev_pci_id_get", ctypes.c_uint32(number), ctypes.byref(address))
            self._numbers[_name(address.value)] = number

    def knows(self, device: str) -> bool:
        return device in self._numbers

    def held(self, device: str) -> tuple[int, dict[int, int], int]:
        """Bytes in use on the device, bytes by process, and 0: all that are listed are told. Raises OSError."""
        number, used = ctypes.c_uint32(self._numbers[device]), ctypes.c_uint64()
        self._call("rsmi_dev_memory_usage_get", number, _VRAM, ctypes.byref(used))
        count = ctypes.c_uint32()
        self._call("rsmi_compute_process_info_get", None, ctypes.byref(count))
        listed = (_Process * (count.value + 8))()
        count = ctypes.c_uint32(len(listed))
        self._call("rsmi_compute_process_info_get", listed, ctypes.byref(count))
        held: dict[int, int] = {}
        for process in listed[: count.value]:
            own = _Process()
            # One that has nothing on this device is told by an error.
            if self._lib.rsmi_compute_process_info_by_device_get(process.pid, number, ctypes.byref(own)) == 0:
                held[process.pid] = own.vram
        return used.value, held, 0

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._lib, name)(*arguments):
            raise OSError(code, f"{name} failed with {code}")


def _name(address: int) -> str:
    """`domain << 32 | bus << 8 | device << 3 | function`."""
    domain, bus, slot, function = address >> 32, address >> 8 & 255, address >> 3 & 31, address & 7
    return f"pci-{domain:04x}:{bus:02x}:{slot:02x}.{function}"
