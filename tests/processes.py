"""Processes that tests start."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

PATIENCE = 30.0
"""Seconds from SIGTERM to SIGKILL."""


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
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
