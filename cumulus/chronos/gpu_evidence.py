"""Whether a process of that number, as seen here, is the one that a driver means.

Drivers tell numbers of the machine, or of the asker's PID namespace, depending on their version. In a namespace of our
own a number may be another process here, which must not answer for what that one holds. Standard library only.
"""

from __future__ import annotations

import os
import re

_INITIAL = "pid:[4026531836]"
"""The namespace in which the machine was started (Linux: PROC_PID_INIT_INO)."""

_DEVICE = re.compile(r".*/(nvidia\d+|nvidiactl|nvidia-uvm|kfd|renderD\d+)")


def in_initial_namespace() -> bool:
    """Whether process numbers here are the machine's."""
    try:
        return os.readlink("/proc/self/ns/pid") == _INITIAL
    except OSError:
        return False


def shows_device(pid: int) -> bool:
    """Whether the process has a GPU open, as far as this user may see."""
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(_DEVICE.fullmatch(os.readlink(entry.path)) for entry in entries)
    except OSError:
        return False
