"""The driver's six functions that move a CUDA program into main memory and back, through ctypes: libcuda from 12.8 on.

They are called from another process than the program, as root or as its user. Standard library only.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from typing import Any

LIBRARY = "libcuda.so.1"

NOT_INITIALIZED, OUT_OF_MEMORY = 3, 2
GONE = -1
"""Where there is no such process any more, or no such function."""

_NAMES = {
    1: "invalid value", 2: "out of memory", 3: "not initialized", 100: "no device", 304: "operating system call failed",
    401: "illegal state", 600: "not ready", 700: "illegal address", 801: "not supported", 999: "unknown error",
}  # fmt: skip


class CheckpointState(IntEnum):
    """CUprocessState."""

    RUNNING = 0
    LOCKED = 1
    CHECKPOINTED = 2
    FAILED = 3


class _LockArgs(ctypes.Structure):
    """CUcheckpointLockArgs."""

    _fields_ = [("timeout_ms", ctypes.c_uint), ("reserved0", ctypes.c_uint), ("reserved1", ctypes.c_uint64 * 7)]


class CheckpointDriver:
    """The library, in this process. Raises OSError where it is not there, or is older than these functions."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(LIBRARY)
        for name in ("Lock", "Checkpoint", "Restore", "Unlock", "GetState", "GetRestoreThreadId"):
            if not hasattr(self._lib, f"cuCheckpointProcess{name}"):
                raise OSError(f"{LIBRARY} has no cuCheckpointProcess{name}")
        self._started = False

    def uses_cuda(self, pid: int) -> bool:
        """Whether the driver runs in that process, with a context or without."""
        thread = ctypes.c_int(0)
        return self._call("GetRestoreThreadId", pid, ctypes.byref(thread)) == 0 and thread.value > 0

    def state(self, pid: int) -> tuple[int, int]:
        """The driver's code, and a `CheckpointState`."""
        state = ctypes.c_int(0)
        return self._call("GetState", pid, ctypes.byref(state)), state.value

    def lock(self, pid: int, milliseconds: int) -> int:
        """Wait until its GPU work is done, and let its CUDA calls wait from then on. The driver's code, as below."""
        return self._call("Lock", pid, ctypes.byref(_LockArgs(timeout_ms=milliseconds)))

    def checkpoint(self, pid: int) -> int:
        """Move what it holds of the GPU into its own main memory."""
        return self._call("Checkpoint", pid, None)

    def restore(self, pid: int) -> int:
        """And back. It is locked then."""
        return self._call("Restore", pid, None)

    def unlock(self, pid: int) -> int:
        return self._call("Unlock", pid, None)

    def _call(self, name: str, pid: int, argument: Any) -> int:
        function = getattr(self._lib, f"cuCheckpointProcess{name}")
        code = int(function(pid, argument))
        if code == NOT_INITIALIZED and not self._started:
            self._started = True
            self._lib.cuInit(0)
            code = int(function(pid, argument))
        return code


def describe(code: int) -> str:
    """A code, for people."""
    if code == GONE:
        return "the process is gone"
    name = _NAMES.get(code)
    return f"CUDA error {code} ({name})" if name else f"CUDA error {code}"
