"""What each process holds of the devices now, asked of the drivers through a process that stays (`driver_process`).

A driver that hangs takes that process with it, and nothing else: it is given up, and started anew after a pause.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cumulus.chronos import driver_process
from cumulus.chronos.contract import Figures
from cumulus.clock import Clock
from cumulus.lib.backoff import Backoff

ANSWER_SECONDS = 5.0
"""The first answer takes a second or two, where the driver has to wake up."""

_AGAIN = Backoff(first=1.0, longest=60.0)
_LONGEST_ANSWER = 2**22


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
        self._child: subprocess.Popen[bytes] | None = None
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

    def close(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        # One that hangs in its driver ends when that lets go of it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.2)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", driver_process.__file__],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            )  # fmt: skip
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(request).encode() + b"\n")
        answer = b""
        deadline = self._clock.monotonic() + ANSWER_SECONDS
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - self._clock.monotonic()))
            part = os.read(child.stdout.fileno(), 65536) if ready else b""
            if not part or len(answer) > _LONGEST_ANSWER:
                raise TimeoutError("the drivers do not answer")
            answer += part
        found: dict[str, Any] = json.loads(answer)
        return found

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
