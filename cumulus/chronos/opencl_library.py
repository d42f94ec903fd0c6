"""Asks an OpenCL library for its devices, by its C interface: `python opencl_library.py LIBRARY` prints them as JSON.

LIBRARY is any that is linked with an OpenCL loader: pyopencl's extension module, or the framework of macOS. A process
of its own: drivers crash. Standard library only; run by path.
"""

from __future__ import annotations

import ctypes
import json
import sys
import uuid
from typing import Any

ANSWER = "chronos-devices:"
"""How the line with the answer begins: drivers print too."""
APPLE = "/System/Library/Frameworks/OpenCL.framework/OpenCL"

_ALL, _CPU, _GPU, _ACCELERATOR = 0xFFFFFFFF, 1 << 1, 1 << 2, 1 << 3
_PLATFORM_NAME = 0x0902
_TYPE, _MEMORY, _AVAILABLE, _NAME, _VENDOR, _DRIVER = 0x1000, 0x101F, 0x1027, 0x102B, 0x102C, 0x102D
_UUID = 0x106A
"""Of cl_khr_device_uuid: 16 bytes."""
_BUS_NV, _SLOT_NV, _DOMAIN_NV = 0x4008, 0x4009, 0x400A
_TOPOLOGY_AMD = 0x4037
"""24 bytes, of which the last three are bus, device and function."""
_MOST = 64
_SOURCE = b"kernel void probe(global int *a) { a[0] = 1; }"


class OpenClLibrary:
    """The functions that discovery needs. Raises OSError where the library can't be loaded."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def probe(self) -> dict[str, list[Any]]:
        """The devices, as rows of `Device`, and the names of CPU devices that are there but of no use."""
        rows: list[dict[str, Any]] = []
        unusable: list[str] = []
        for p, platform in enumerate(self._handles("clGetPlatformIDs")):
            platform_name = self._text("clGetPlatformInfo", platform, _PLATFORM_NAME)
            for d, device in enumerate(self._handles("clGetDeviceIDs", platform, ctypes.c_uint64(_ALL))):
                bits, memory = self._number(device, _TYPE, 8), self._number(device, _MEMORY, 8)
                kinds = (("gpu", _GPU), ("accelerator", _ACCELERATOR), ("cpu", _CPU))
                kind = next((name for name, bit in kinds if bits & bit), None)
                if kind is None or not memory or not self._number(device, _AVAILABLE, 4):
                    continue
                written = self._text("clGetDeviceInfo", device, _NAME)
                name = written.strip()
                if kind == "cpu" and not self._compiles(device):
                    unusable.append(f"{platform_name} ({name})")
                    continue
                vendor = self._text("clGetDeviceInfo", device, _VENDOR).strip()
                same = [row for row in rows if (row["platform_index"], row["name"]) == (p, name)]
                # As drivers write it, spaces at its ends too: ledgers know devices by it.
                found_at = f"{platform_name}/{written}/{len(same)}".replace(" ", "-")
                rows.append(
                    {
                        "id": self._identity(device, bits, vendor) or found_at, "name": name, "vendor": vendor,
                        "type": kind, "memory_bytes": memory, "platform_index": p, "device_index": d,
                        "driver": self._text("clGetDeviceInfo", device, _DRIVER).strip(),
                    }
                )  # fmt: skip
        return {"devices": rows, "unusable": unusable}

    def _identity(self, device: ctypes.c_void_p, bits: int, vendor: str) -> str:
        """A stable id from what the driver offers, best first: the UUID, in NVIDIA's notation for its devices, or the
        PCI address. "" where it offers none."""
        raw = self._info("clGetDeviceInfo", device, _UUID, 16)
        if len(raw) == 16 and any(raw) and not bits & _CPU:
            return ("GPU-" if "nvidia" in vendor.lower() else "uuid-") + str(uuid.UUID(bytes=raw))
        bus, slot, domain = (self._info("clGetDeviceInfo", device, each, 4) for each in (_BUS_NV, _SLOT_NV, _DOMAIN_NV))
        if bus and slot:
            # The slot is the device number alone, without a function (seen with driver 580).
            return f"pci-{_integer(domain):04x}:{_integer(bus):02x}:{_integer(slot):02x}.0"
        topology = self._info("clGetDeviceInfo", device, _TOPOLOGY_AMD, 24)
        if len(topology) == 24:
            return f"pci-0000:{topology[21]:02x}:{topology[22]:02x}.{topology[23]}"
        return ""

    def _compiles(self, device: ctypes.c_void_p) -> bool:
        """PoCL's LLVM refuses CPUs that are newer than itself: "unknown target CPU 'generic'" (pocl#1049)."""
        one, number, error = (ctypes.c_void_p * 1)(device), ctypes.c_uint32(1), ctypes.c_int32()
        create_context, create_program = self._library.clCreateContext, self._library.clCreateProgramWithSource
        create_context.restype = create_program.restype = ctypes.c_void_p
        context = ctypes.c_void_p(create_context(None, number, one, None, None, ctypes.byref(error)))
        if not context or error.value != 0:
            return False
        source = ctypes.c_char_p(_SOURCE)
        program = ctypes.c_void_p(create_program(context, number, ctypes.byref(source), None, ctypes.byref(error)))
        if not program or error.value != 0:
            return False
        return bool(self._library.clBuildProgram(program, number, one, b"", None, None) == 0)

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
        return self._info(function, handle, parameter, 1024).split(b"\0")[0].decode("utf-8", "replace")

    def _number(self, device: ctypes.c_void_p, parameter: int, size: int) -> int:
        return _integer(self._info("clGetDeviceInfo", device, parameter, size))


def _integer(raw: bytes) -> int:
    return int.from_bytes(raw, sys.byteorder)


if __name__ == "__main__":
    print(ANSWER + json.dumps(OpenClLibrary(sys.argv[1]).probe()), flush=True)
