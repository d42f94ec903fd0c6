"""Asks `checkpoint_process` to lock, move, restore and unlock processes: whoever parks hangs with no driver."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cumulus.chronos.parking import checkpoint_process
from cumulus.chronos.parking.driver import CheckpointState, describe
from cumulus.lib.line_process import LineProcess
from cumulus.lib.processes import ProcessIdentity

ANSWER_SECONDS = 20.0
"""For what takes no time; the first answer loads the library."""
LOCK_SECONDS = 10.0
"""For a process's GPU work to be done: the driver gives up then by itself."""
_LEAST_SECONDS, _BYTES_PER_SECOND = 60.0, 2**28
"""For moving memory: at a quarter of a GiB/s the machine is swapping, and nobody waits for that."""


class DriverRefused(Exception):
    """The driver answered with an error. `code` is its number."""

    def __init__(self, call: str, process: ProcessIdentity, code: int) -> None:
        super().__init__(f"process {process.pid}: {call}: {describe(code)}")
        self.code = code


class DriverSilent(Exception):
    """The driver did not answer, or is not there: how far a process is, nobody knows."""


class CheckpointClient:
    """For one thread. `close` ends the process that it started; it must be closed before the caller ends."""

    def __init__(self, answer_seconds: float = ANSWER_SECONDS, lock_seconds: float = LOCK_SECONDS) -> None:
        self._answer_seconds = answer_seconds
        self._lock_seconds = lock_seconds
        self._process = LineProcess(checkpoint_process.__file__)

    def using_cuda(self, processes: Iterable[ProcessIdentity]) -> set[ProcessIdentity]:
        """Those in which the driver runs. Raises DriverSilent, as all do."""
        asked = {process.pid: process for process in processes}
        if not asked:
            return set()
        said = self._ask({"find": sorted(asked)}, self._answer_seconds)
        return {asked[pid] for pid in said["found"] if pid in asked}

    def state(self, process: ProcessIdentity) -> CheckpointState | None:
        """None where the process is gone. Raises DriverRefused."""
        code, value = self._call("state", process, self._answer_seconds)
        if code < 0:
            return None
        if code:
            raise DriverRefused("state", process, code)
        return CheckpointState(value)

    def lock(self, process: ProcessIdentity) -> None:
        """Raises DriverRefused, as all below."""
        self._do("lock", process, self._lock_seconds + self._answer_seconds, int(self._lock_seconds * 1000))

    def checkpoint(self, process: ProcessIdentity, size: int) -> None:
        self._do("checkpoint", process, _LEAST_SECONDS + size / _BYTES_PER_SECOND)

    def restore(self, process: ProcessIdentity, size: int) -> None:
        self._do("restore", process, _LEAST_SECONDS + size / _BYTES_PER_SECOND)

    def unlock(self, process: ProcessIdentity) -> None:
        self._do("unlock", process, self._answer_seconds)

    def close(self) -> None:
        self._process.close()

    def _do(self, name: str, process: ProcessIdentity, seconds: float, *arguments: int) -> None:
        code, _ = self._call(name, process, seconds, *arguments)
        if code:
            raise DriverRefused(name, process, code)

    def _call(self, name: str, process: ProcessIdentity, seconds: float, *arguments: int) -> tuple[int, int]:
        request = {"call": name, "pid": process.pid, "start": process.start, "arguments": arguments}
        said = self._ask(request, seconds)
        return int(said["code"]), int(said["value"])

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            said = self._process.ask(request, seconds)
            if "error" in said:
                raise DriverSilent(str(said["error"]))
        except (OSError, ValueError) as error:
            self._process.close()
            raise DriverSilent(str(error)) from error
        return said
