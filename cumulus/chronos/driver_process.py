"""Asks the GPUs' drivers what each process holds, for as long as its standard input is open: a process of its own,
`python -I -S driver_process.py`, since drivers hang and crash. `device_processes` starts it and asks.

    <- {"look": ["GPU-…"]}                           a line a request
    -> {"GPU-…": [USED, {"PID": BYTES}, UNTOLD]}     null where the driver does not tell, "lost" for a GPU that is gone
    <- {"figures": ["GPU-…"], "since": SECONDS}
    -> {"GPU-…": {"used_bytes": …, "fault": "…"}}    faults of the kernel's log from so many seconds after the boot on
    <- {"clients": ["GPU-…"]}
    -> {"clients": {"GPU-…": [PID, …]}, "driver": "580.65"}    the clients of MPS

Standard library only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

if __name__ == "__main__":
    # Run by path: neither site-packages nor the working directory is on sys.path (-I -S).
    sys.path[0:0] = [os.path.abspath(__file__ + "/../../..")]

from cumulus.chronos import level_zero, nvml, rocm_smi, xid
from cumulus.lib import line_answers

LOST = "lost"


class _Driver(Protocol):
    def held(self, device: str) -> tuple[int, dict[int, int], int]: ...


class Drivers:
    """All that are on this machine, each started when one of its devices is asked for first."""

    def __init__(self) -> None:
        self._nvml: nvml.Nvml | None = None
        self._read_since: set[float] = set()
        self._others: list[rocm_smi.RocmSmi | level_zero.LevelZero] | None = None

    def look(self, devices: Sequence[str]) -> dict[str, Any]:
        return {device: self._look(device) for device in devices}

    def _look(self, device: str) -> Any:
        try:
            driver = self._of(device)
            return None if driver is None else driver.held(device)
        except OSError as error:
            return LOST if error.errno == nvml.GPU_IS_LOST and device.startswith(_NVIDIA) else None

    def figures(self, devices: Sequence[str], since: float) -> dict[str, Any]:
        found = {device: self._figures(device) for device in devices}
        nvidia = [device for device in devices if device.startswith("GPU-") and found[device] is not None]
        for device, number in self._errors(nvidia, since):
            if (text := xid.fault(number)) and found.get(device) is not None:
                found[device]["fault"] = text
        return found

    def _figures(self, device: str) -> Any:
        try:
            driver = self._of(device)
            if driver is None:
                return None
            if isinstance(driver, nvml.Nvml):
                if device.startswith("GPU-"):
                    driver.watch_for_errors(device)
                return driver.figures(device)
            return {"used_bytes": driver.held(device)[0]}
        except OSError as error:
            if error.errno == nvml.GPU_IS_LOST and device.startswith(_NVIDIA):
                return {"fault": xid.fault(xid.OFF_THE_BUS)}
            return None

    def clients(self, devices: Sequence[str]) -> dict[str, Any]:
        found: dict[str, list[int]] = {}
        version = ""
        for device in devices:
            with suppress(OSError):
                driver = self._of(device)
                if isinstance(driver, nvml.Nvml):
                    found[device] = driver.clients(device)
                    version = driver.version()
        return {"clients": found, "driver": version}

    def _errors(self, devices: Sequence[str], since: float) -> list[tuple[str, int]]:
        if self._nvml is None:
            return []
        if since not in self._read_since:
            # The driver tells of later ones itself.
            self._read_since.add(since)
            by_address = {}
            for device in devices:
                with suppress(OSError):
                    by_address[self._nvml.address(device)] = device
            logged = [(by_address.get(address, ""), number) for address, number in xid.in_kernel_log(since)]
        else:
            logged = []
        return [*logged, *self._nvml.errors()]

    def _of(self, device: str) -> _Driver | None:
        if device.startswith(_NVIDIA):
            if self._nvml is None:
                self._nvml = nvml.Nvml()
            return self._nvml
        if self._others is None:
            self._others = []
            for kind in (rocm_smi.RocmSmi, level_zero.LevelZero):
                try:
                    self._others.append(kind())
                except (OSError, AttributeError):
                    continue
        return next((driver for driver in self._others if driver.knows(device)), None)


_NVIDIA = ("GPU-", "MIG-")


def main() -> None:
    """Answer until the input ends."""
    drivers = Drivers()

    def answer(asked: Any) -> Any:
        if "look" in asked:
            return drivers.look(asked["look"])
        if "clients" in asked:
            return drivers.clients(asked["clients"])
        return drivers.figures(asked["figures"], asked["since"])

    line_answers.serve(answer)


if __name__ == "__main__":
    main()
