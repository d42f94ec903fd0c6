"""Processes that tests start."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

PATIENCE = 30.0
"""Seconds from SIGTERM to SIGKILL."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def die_with_parent() -> None:
    """For preexec_fn: SIGKILL for this process when the one that starts it ends, however that ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_parent(parent: int) -> None:
    """SIGTERM for this process when its parent ends, however that ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


class Process(Protocol):
    """What tests ask of a `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | Any: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def end(processes: Sequence[Process]) -> None:
    """Ask all of them to end, kill those that do not, and return when none is left."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cgroups_of(home: Path) -> list[str]:
    """Cgroups of the leases of a Chronos that are still there."""
    if not home.exists():
        return []
    mark = f"chronos-{home.stat().st_dev:x}-{home.stat().st_ino:x}-"
    return [path for path, _, _ in os.walk("/sys/fs/cgroup") if os.path.basename(path).startswith(mark)]
