"""What each process holds of Intel's GPUs, as Level Zero's Sysman says: libze_loader through ctypes.

The calls and structures are those of zes_api.h (Level Zero 1.5 and later). Untested on hardware: no such GPU was at
hand; the tests have a library that answers as the header says. Standard library only.
"""

from __future__ import annotations

import ctypes
from typing import Any

LIBRARY = "libze_loader.so.1"
_PCI_PROPERTIES, _PROCESS_STATE, _MEMORY_STATE = 0x2, 0x16, 0x1E
"""Of zes_structure_type_t."""


class _Pci(ctypes.Structure):
    _fields_ = [
        ("stype", ctypes.c_uint32), ("next", ctypes.c_void_p), ("domain", ctypes.c_uint32), ("bus", ctypes.c_uint32),
        ("device", ctypes.c_uint32), ("function", ctypes.c_uint32), ("rest", ctypes.c_uint64 * 8),
    ]  # fmt: skip


class _Process(ctypes.Structure):
    _fields_ = [
        ("stype", ctypes.c_uint32), ("next", ctypes.c_void_p), ("pid", ctypes.c_uint32), ("memory", ctypes.c_uint64),
        ("shared", ctypes.c_uint64), ("engines", ctypes.c_uint32),
    ]  # fmt: skip


class _Memory(ctypes.Structure):
    _fields_ = [
        ("stype", ctypes.c_uint32), ("next", ctypes.c_void_p), ("health", ctypes.c_uint32), ("free", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
    ]  # fmt: skip


class LevelZero:
    """The library, in this process. Raises OSError where it is not there or does not start."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(LIBRARY)
        self._call("zesInit", 0)
        self._handles: dict[str, ctypes.c_void_p] = {}
        for driver in self._list("zesDriverGet", ctypes.c_void_p):
            for device in self._list("zesDeviceGet", ctypes.c_void_p, ctypes.c_void_p(driver)):
                place = _Pci(stype=_PCI_PROPERTIES)
                self._call("zesDevicePciGetProperties", ctypes.c_void_p(device), ctypes.byref(place))
                name = f"pci-{place.domain:04x}:{place.bus:02x}:{place.device:02x}.{place.function}"
                self._handles[name] = ctypes.c_void_p(device)

    def knows(self, device: str) -> bool:
        return device in self._handles

    def held(self, device: str) -> tuple[int, dict[int, int], int]:
        """Bytes in use on the device, bytes by process, and 0: all that are listed are told. Raises OSError."""
        handle, used = self._handles[device], 0
        for module in self._list("zesDeviceEnumMemoryModules", ctypes.c_void_p, handle):
            state = _Memory(stype=_MEMORY_STATE)
            self._call("zesMemoryGetState", ctypes.c_void_p(module), ctypes.byref(state))
            used += state.size - state.free
        listed = self._list("zesDeviceProcessesGetState", _Process, handle)
        return used, {process.pid: process.memory for process in listed}, 0

    def _list(self, name: str, kind: Any, *arguments: Any) -> list[Any]:
        count = ctypes.c_uint32()
        self._call(name, *arguments, ctypes.byref(count), None)
        count = ctypes.c_uint32(count.value + 8 if kind is _Process else count.value)
        found = (kind * count.value)()
        for each in found if kind is _Process else ():
            each.stype = _PROCESS_STATE
        self._call(name, *arguments, ctypes.byref(count), found)
        return list(found[: count.value])

    def _call(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._lib, name)(*arguments):
            raise OSError(code, f"{name} failed with {code:#x}")
