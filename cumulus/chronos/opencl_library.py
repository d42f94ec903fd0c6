"""Asks an OpenCL library for its devices, by its C interface: `python opencl_library.py LIBRARY` prints them as JSON.

For macOS, whose OpenCL is a framework of the system, and for which there may be no pyopencl. A process of its own:
drivers crash. Standard library only; run by path.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

ANSWER = "chronos-devices:"
"""How the line with the answer begins: drivers print too."""
APPLE = "/System/Library/Frameworks/OpenCL.framework/OpenCL"

_ALL, _CPU, _GPU, _ACCELERATOR = 0xFFFFFFFF, 1 << 1, 1 << 2, 1 << 3
_PLATFORM_NAME = 0x0902
_TYPE, _MEMORY, _AVAILABLE, _NAME, _VENDOR, _DRIVER = 0x1000, 0x101F, 0x1027, 0x102B, 0x102C, 0x102D
_MOST = 64


class OpenClLibrary:
    """The functions that discovery needs. Raises OSError where the library can't be loaded."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def devices(self) -> list[dict[str, Any]]:
        """As the probe of `cumulus.chronos.device` writes them."""
        rows: list[dict[str, Any]] = []
        for p, platform in enumerate(self._handles("clGetPlatformIDs")):
            for d, device in enumerate(self._handles("clGetDeviceIDs", platform, ctypes.c_uint64(_ALL))):
                bits, memory = self._number(device, _TYPE, 8), self._number(device, _MEMORY, 8)
                kinds = (("gpu", _GPU), ("accelerator", _ACCELERATOR), ("cpu", _CPU))
                kind = next((name for name, bit in kinds if bits & bit), None)
                if kind is None or memory < 1 or not self._number(device, _AVAILABLE, 4):
                    continue
                name = self._text("clGetDeviceInfo", device, _NAME)
                same = [row for row in rows if (row["platform_index"], row["name"]) == (p, name)]
                place = f"{self._text('clGetPlatformInfo', platform, _PLATFORM_NAME)}/{name}/{len(same)}"
                rows.append(
                    {
                        "id": place.replace(" ", "-"), "name": name,
                        "vendor": self._text("clGetDeviceInfo", device, _VENDOR), "type": kind, "memory_bytes": memory,
                        "driver": self._text("clGetDeviceInfo", device, _DRIVER), "platform_index": p,
                        "device_index": d,
                    }
                )  # fmt: skip
        return rows

    def _handles(self, function: str, *arguments: Any) -> list[ctypes.c_void_p]:
        """What a function with the ending (count, array, number) answers; none where it fails."""
        found, number = (ctypes.c_void_p * _MOST)(), ctypes.c_uint32()
        if getattr(self._library, function)(*arguments, ctypes.c_uint32(_MOST), found, ctypes.byref(number)) != 0:
            return []
        return [ctypes.c_void_p(each) for each in found[: min(number.value, _MOST)]]

    def _info(self, function: str, handle: ctypes.c_void_p, parameter: int, size: int) -> bytes:
        buffer, written = ctypes.create_string_buffer(size), ctypes.c_size_t()
        call = getattr(self._library, function)
        if call(handle, ctypes.c_uint32(parameter), ctypes.c_size_t(size), buffer, ctypes.byref(written)) != 0:
            return b""
        return buffer.raw[: written.value]

    def _text(self, function: str, handle: ctypes.c_void_p, parameter: int) -> str:
        return self._info(function, handle, parameter, 1024).split(b"\0")[0].decode("utf-8", "replace").strip()

    def _number(self, device: ctypes.c_void_p, parameter: int, size: int) -> int:
        return int.from_bytes(self._info("clGetDeviceInfo", device, parameter, size), sys.byteorder)


if __name__ == "__main__":
    print(ANSWER + json.dumps({"devices": OpenClLibrary(sys.argv[1]).devices(), "unusable": []}))
