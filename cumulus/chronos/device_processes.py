"""What each process holds of the devices now, asked of the drivers through a process that stays (`driver_process`).

A driver that hangs takes that process with it, and nothing else: it is given up, and started anew after a pause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cumulus.chronos import driver_process
from cumulus.chronos.contract import Figures
from cumulus.clock import Clock
from cumulus.lib.backoff import Backoff
from cumulus.lib.line_process import LineProcess

ANSWER_SECONDS = 5.0
"""The first answer takes a second or two, where the driver has to wake up."""

_AGAIN = Backoff(first=1.0, longest=60.0)


@dataclass(frozen=True, slots=True)
class DeviceHeld:
    """One device: bytes in use in all, and by process as far as the driver tells."""

    used_bytes: int
    processes: Mapping[int, int]
    untold: int = 0
    """Processes that are there and whose memory is not told."""
    lost: bool = False
    """The driver says that the device is gone."""


class DeviceProcesses:
    """`look` is called several times a second, by one thread. `close` ends the process that it started."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._process = LineProcess(driver_process.__file__)
        self._failures = 0
        self._not_before = 0.0

    def look(self, devices: Sequence[str]) -> Mapping[str, DeviceHeld] | None:
        """By device id; without those of which no driver tells anything. None where there is no answer now."""
        if self._clock.monotonic() < self._not_before:
            return None
        try:
            said = self._ask({"look": list(devices)})
        except (OSError, ValueError):
            self._give_up()
            return None
        self._failures = 0
        return {device: _read(found) for device, found in said.items() if found is not None}

    def figures(self, devices: Sequence[str], since: float) -> Mapping[str, Figures] | None:
        """How the devices are, by id; without those of which no driver tells anything. `since`: from so many seconds
        after the boot on, errors in the kernel's log are a device's fault. None where there is no answer now."""
        if self._clock.monotonic() < self._not_before:
            return None
        try:
            said = self._ask({"figures": list(devices), "since": since})
            found = {id: _figures(fields) for id, fields in said.items() if fields is not None}
        except (OSError, ValueError, TypeError):
            self._give_up()
            return None
        return found

    def clients(self, devices: Sequence[str]) -> tuple[Mapping[str, frozenset[int]], str] | None:
        """The clients of MPS on each device, by their numbers, and the version of NVIDIA's driver. None where there is
        no answer now."""
        try:
            said = self._ask({"clients": list(devices)})
            found = {id: frozenset(map(int, pids)) for id, pids in said["clients"].items()}
        except (OSError, ValueError, KeyError):
            self._give_up()
            return None
        return found, str(said["driver"])

    def close(self) -> None:
        self._process.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return self._process.ask(request, ANSWER_SECONDS)

    def _give_up(self) -> None:
        self.close()
        self._not_before = self._clock.monotonic() + _AGAIN.seconds(self._failures)
        self._failures += 1


def _figures(fields: Any) -> Figures:
    return Figures(**{**fields, "throttling": tuple(fields.get("throttling", ()))})


def _read(found: Any) -> DeviceHeld:
    if found == driver_process.LOST:
        return DeviceHeld(0, {}, lost=True)
    used, processes, untold = found
    return DeviceHeld(used, {int(pid): size for pid, size in processes.items()}, untold)
