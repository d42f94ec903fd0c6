"""Identifies the leader's process, so that another one on the same machine can be certain that it is gone.

A killed leader need not be waited for then. Where there is any doubt (another machine, another container, a /proc that
shows only one's own processes) it counts as alive, and the lease's time decides. Standard library only.
"""

from __future__ import annotations

import os

from cumulus.lib import processes


def this_process() -> str:
    """This process as BOOT/PID-NAMESPACE/PID/START, START in clock ticks since boot; "" where /proc cannot tell."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""  # A /proc of another pid namespace, where our pid means another process.
        found = processes.read(os.getpid())
        return f"{_world()}/{found.pid}/{found.start}" if found is not None else ""
    except OSError:
        return ""


def is_gone(process: str) -> bool:
    """Whether the process that `this_process` named has certainly ended: it can write and call nothing any more."""
    place, _, start = process.rpartition("/")
    world, _, pid = place.rpartition("/")
    try:
        if not (pid.isdecimal() and start.isdecimal()) or not this_process() or world != _world():
            return False
        found = processes.read(int(pid))
        if found is not None:
            return found.start != int(start) or not found.alive
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False  # It is there though /proc hides it.


def pid_here(process: str) -> int | None:
    """The pid of the process that `this_process` named, where it is one of this machine and has not ended."""
    place, _, _ = process.rpartition("/")
    world, _, pid = place.rpartition("/")
    try:
        return int(pid) if pid.isdecimal() and world == _world() and not is_gone(process) else None
    except OSError:
        return None


def _world() -> str:
    """In which pids mean the same: this boot of this machine, this pid namespace (pid_namespaces(7))."""
    return f"{processes.boot_id()}/{os.readlink('/proc/self/ns/pid')}"
