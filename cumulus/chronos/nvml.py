"""What each process uses, as NVIDIA's driver says: NVML through ctypes, in a process of its own with a time-out.

NVML: docs.nvidia.com/deploy/nvml-api. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
TIMEOUT = 10.0
"""Seconds for the driver to answer."""

_INSUFFICIENT_SIZE = 7
GPU_IS_LOST = 15
_FUNCTION_NOT_FOUND = 13
_CORRECTED, _UNCORRECTED, _VOLATILE = 0, 1, 0
_XID_EVENT = 0x8
_UNKNOWN = 2**64 - 1
_THROTTLING = {0x4: "PowerCap", 0x8: "Hardware", 0x20 | 0x40: "Thermal", 0x80: "PowerBrake"}
"""Of nvmlClocksThrottleReasons, those that mean trouble: an idle GPU is slow too."""
_MOST_EVENTS = 64
_LISTS = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v3")
_WINDOW = 2_000_000
"""Microseconds over which a process's compute is counted; the driver samples several times a second."""


@dataclass(frozen=True, slots=True)
class Utilization:
    """What one process, or the whole device, uses. `compute` is in thousandths of the device, None if not told."""

    memory_bytes: int
    compute: int | None


@dataclass(frozen=True, slots=True)
class DeviceUtilization:
    """A device now: in all, and by process as far as the driver tells."""

    whole: Utilization
    processes: dict[int, Utilization]


class Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_uint64), ("free", ctypes.c_uint64), ("used", ctypes.c_uint64)]


class _Rates(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint), ("memory", ctypes.c_uint64),
        ("gpu_instance", ctypes.c_uint), ("compute_instance", ctypes.c_uint),
    ]  # fmt: skip


class _Sample(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint), ("time", ctypes.c_uint64),
        ("sm", ctypes.c_uint), ("memory", ctypes.c_uint), ("encoder", ctypes.c_uint), ("decoder", ctypes.c_uint),
    ]  # fmt: skip


class _Event(ctypes.Structure):
    _fields_ = [
        ("device", ctypes.c_void_p), ("type", ctypes.c_ulonglong), ("data", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint), ("compute_instance", ctypes.c_uint),
    ]  # fmt: skip


class _Pci(ctypes.Structure):
    _fields_ = [
        ("legacy", ctypes.c_char * 16), ("domain", ctypes.c_uint), ("bus", ctypes.c_uint), ("device", ctypes.c_uint),
        ("pci_device", ctypes.c_uint), ("pci_subsystem", ctypes.c_uint), ("id", ctypes.c_char * 32),
    ]  # fmt: skip


class Nvml:
    """The library, in this process. Raises OSError where it is not there or does not start."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(LIBRARY)
        self._events: ctypes.c_void_p | None = None
        self._watched: set[str] = set()
        if code := self._lib.nvmlInit_v2():
            raise OSError(f"nvmlInit_v2 failed with {code}")

    def devices(self) -> dict[str, DeviceUtilization]:
        """By UUID."""
        return {uuid: self._device(handle) for uuid, handle in self.handles().items()}

    def handles(self) -> dict[str, ctypes.c_void_p]:
        """Of all GPUs, by UUID."""
        count, found = ctypes.c_uint(), {}
        self.tells("nvmlDeviceGetCount_v2", ctypes.byref(count))
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if self.tells("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(handle)):
                found[self.uuid(handle)] = handle
        return found

    def uuid(self, handle: ctypes.c_void_p) -> str:
        """Of a GPU or a MIG instance, "" where it is not told."""
        text = ctypes.create_string_buffer(96)
        self.tells("nvmlDeviceGetUUID", handle, text, len(text))
        return text.value.decode(errors="replace")

    def handle(self, uuid: str) -> ctypes.c_void_p:
        """Of a GPU or a MIG instance. Raises OSError, with NVML's error as its number."""
        handle = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByUUID", uuid.encode(), ctypes.byref(handle))
        return handle

    def call(self, name: str, *arguments: Any) -> None:
        """Raises OSError, with NVML's error as its number; 13 where the library is too old for it."""
        function = getattr(self._lib, name, None)
        code = function(*arguments) if function is not None else _FUNCTION_NOT_FOUND
        if code:
            raise OSError(code, f"{name} failed with {code}")

    def held(self, uuid: str) -> tuple[int, dict[int, int], int]:
        """Bytes in use on the device, bytes by process, and how many processes there are whose bytes are not told.
        Raises OSError."""
        handle = self.handle(uuid)
        used = self._used(handle)
        told: dict[int, int] = {}
        listed: set[int] = set()
        for name in _LISTS:
            if hasattr(self._lib, name):
                for process in self._list(_Process, getattr(self._lib, name), handle):
                    listed.add(process.pid)
                    if process.memory != _UNKNOWN:
                        told[process.pid] = max(process.memory, told.get(process.pid, 0))
        return used, told, len(listed - told.keys())

    def clients(self, uuid: str) -> list[int]:
        """The clients of MPS on the device. Raises OSError."""
        call = getattr(self._lib, _LISTS[1], None)
        return [] if call is None else [process.pid for process in self._list(_Process, call, self.handle(uuid))]

    def version(self) -> str:
        """Of the driver; "" where it does not tell."""
        text = ctypes.create_string_buffer(96)
        self.tells("nvmlSystemGetDriverVersion", text, len(text))
        return text.value.decode(errors="replace")

    def figures(self, uuid: str) -> dict[str, Any]:
        """How the device is; without what is not told. Raises OSError where it is gone."""
        handle, rates = self.handle(uuid), _Rates()
        number, wide = ctypes.c_uint(), ctypes.c_ulonglong()
        found: dict[str, Any] = {"used_bytes": self._used(handle)}
        if self.tells("nvmlDeviceGetUtilizationRates", handle, ctypes.byref(rates)):
            found["busy"] = min(rates.gpu, 100) * 10
        if self.tells("nvmlDeviceGetPowerUsage", handle, ctypes.byref(number)):
            found["power_watts"] = round(number.value / 1000, 1)
        if self.tells("nvmlDeviceGetTemperature", handle, 0, ctypes.byref(number)):
            found["temperature"] = number.value
        if self.tells("nvmlDeviceGetCurrentClocksThrottleReasons", handle, ctypes.byref(wide)):
            found["throttling"] = [word for mask, word in _THROTTLING.items() if wide.value & mask]
        for name, kind in (("ecc_corrected", _CORRECTED), ("ecc_uncorrected", _UNCORRECTED)):
            if self.tells("nvmlDeviceGetTotalEccErrors", handle, kind, _VOLATILE, ctypes.byref(wide)):
                found[name] = wide.value
        return found

    def watch_for_errors(self, uuid: str) -> None:
        """`errors` tells of this device from now on. Nothing happens where the driver tells none."""
        if self._events is None:
            self._events = ctypes.c_void_p()
            if not self.tells("nvmlEventSetCreate", ctypes.byref(self._events)):
                self._events = ctypes.c_void_p()
        if self._events.value and uuid not in self._watched:
            self._watched.add(uuid)
            self.tells("nvmlDeviceRegisterEvents", self.handle(uuid), ctypes.c_ulonglong(_XID_EVENT), self._events)

    def errors(self) -> list[tuple[str, int]]:
        """The numbers of the errors (Xid) that came since the last call, each with its device."""
        found = []
        event = _Event()
        for _ in range(_MOST_EVENTS):
            if not (self._events and self._events.value):
                break
            if not self.tells("nvmlEventSetWait_v2", self._events, ctypes.byref(event), 0):
                break
            if uuid := self.uuid(ctypes.c_void_p(event.device)):
                found.append((uuid, int(event.data)))
        return found

    def address(self, uuid: str) -> str:
        """As the kernel's log has it: 0000:3b:00. Raises OSError."""
        place = _Pci()
        self.call("nvmlDeviceGetPciInfo_v3", self.handle(uuid), ctypes.byref(place))
        return f"{place.domain:04x}:{place.bus:02x}:{place.device:02x}"

    def tells(self, name: str, *arguments: Any) -> bool:
        """Whether the call succeeds. A function that this version does not have fails as one that the GPU does not
        support."""
        function = getattr(self._lib, name, None)
        return function is not None and function(*arguments) == 0

    def memory_used(self, uuid: str) -> int:
        """Bytes in use on the device, of all processes. Raises OSError."""
        return self._used(self.handle(uuid))

    def _used(self, handle: ctypes.c_void_p) -> int:
        memory = Memory()
        self.call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        return int(memory.used)

    def _device(self, handle: ctypes.c_void_p) -> DeviceUtilization:
        memory, rates = Memory(), _Rates()
        self._lib.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        told = self._lib.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(rates)) == 0
        since = ctypes.c_uint64(int(time.time() * 1e6) - _WINDOW)
        samples = self._list(_Sample, self._lib.nvmlDeviceGetProcessUtilization, handle, since)
        # There is no sample of a process that did nothing; and none of MPS clients, whatever they do.
        compute: dict[int, int | None] = {sample.pid: min(sample.sm, 100) * 10 for sample in samples}
        clients = self._processes("nvmlDeviceGetMPSComputeRunningProcesses_v3", handle)
        held = self._processes("nvmlDeviceGetComputeRunningProcesses_v3", handle) | clients
        processes = {
            pid: Utilization(size, None if pid in clients else compute.get(pid, 0)) for pid, size in held.items()
        }
        return DeviceUtilization(Utilization(memory.used, rates.gpu * 10 if told else None), processes)

    def _processes(self, name: str, handle: ctypes.c_void_p) -> dict[int, int]:
        """Bytes that each process in that list holds, as far as they are told."""
        if not hasattr(self._lib, name):
            return {}
        found = self._list(_Process, getattr(self._lib, name), handle)
        return {process.pid: process.memory for process in found if process.memory != _UNKNOWN}

    def _list(self, kind: Any, call: Any, handle: ctypes.c_void_p, since: ctypes.c_uint64 | None = None) -> list[Any]:
        """What NVML lists: asked for how many there are, then for them, until the room was enough."""
        count = ctypes.c_uint(0)
        found, code = None, _INSUFFICIENT_SIZE
        for _ in range(5):
            if code != _INSUFFICIENT_SIZE:
                break
            count = ctypes.c_uint(count.value + 8)
            found = (kind * count.value)()
            order = (found, ctypes.byref(count), since) if since is not None else (ctypes.byref(count), found)
            code = call(handle, *order)
        return list(found[: count.value]) if found is not None and code == 0 else []


def read_utilization() -> dict[str, DeviceUtilization]:
    """All devices by UUID. Empty where there is no NVIDIA driver, or it does not answer in time."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=TIMEOUT, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return {
        uuid: DeviceUtilization(Utilization(*whole), {int(pid): Utilization(*use) for pid, use in processes.items()})
        for uuid, (whole, processes) in json.loads(done.stdout).items()
    }


def main() -> None:
    """Print what `read_utilization` reads."""
    answer = {
        uuid: ((use.whole.memory_bytes, use.whole.compute),
               {pid: (one.memory_bytes, one.compute) for pid, one in use.processes.items()})
        for uuid, use in Nvml().devices().items()
    }  # fmt: skip
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
