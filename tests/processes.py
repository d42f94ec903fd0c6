"""Processes that tests start."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

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
