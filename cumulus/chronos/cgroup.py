"""A cgroup for each lease where this user may make one (root, as a rule): what no process of the lease can leave.

cgroup v2 only (docs.kernel.org/admin-guide/cgroup-v2.html). The lease's cgroup lies inside the one in which its
process was started, so that limits and accounting of a systemd unit or a container go on as they were.
"""

from __future__ import annotations

import os
from contextlib import suppress


def enclose(pid: int, name: str) -> str | None:
    """Move the process into the lease's cgroup, `chronos-NAME`. Returns its directory, None where it cannot.

    A process that another has put elsewhere, a container's say, is left where it is.
    """
    root, here, there = _mount(), _path(os.getpid()), _path(pid)
    if root is None or here is None or there is None:
        return None
    inside = f"{here.rstrip('/')}/chronos-"
    if there.startswith(inside):
        # It is in the cgroup of another lease that it holds, or of this one.
        return root + inside + there.removeprefix(inside).split("/")[0]
    if there != here:
        return None
    directory = f"{root}{inside}{name}"
    try:
        os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/cgroup.procs", "w") as file:
            file.write(str(pid))
    except OSError:
        remove(directory)
        return None
    return directory


def leave() -> None:
    """Leave the cgroup of a lease, where this process was started in one. The monitor must not be ended with it."""
    root, here = _mount(), _path(os.getpid())
    if root is None or here is None or "/chronos-" not in here:
        return
    with suppress(OSError), open(f"{root}{here.partition('/chronos-')[0]}/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))


def members(directory: str) -> set[int]:
    """The processes in the cgroup and those below it, without zombies."""
    found: set[int] = set()
    for path, _, _ in os.walk(directory):
        with suppress(OSError), open(f"{path}/cgroup.procs") as file:
            found.update(map(int, file.read().split()))
    return found


def populated(directory: str) -> bool:
    """Whether a process lives in the cgroup or below it, also one that is just being forked."""
    with suppress(OSError), open(f"{directory}/cgroup.events") as file:
        return "populated 1" in file.read()
    return False


def kill(directory: str) -> None:
    """SIGKILL all of them at once, those that are just being forked too (Linux 5.14; before, nothing happens)."""
    with suppress(OSError), open(f"{directory}/cgroup.kill", "w") as file:
        file.write("1")


def remove(directory: str) -> bool:
    """Delete the cgroup and those below it. False where one stays, which it does until its last zombie is reaped."""
    for path, _, _ in os.walk(directory, topdown=False):
        with suppress(OSError):
            os.rmdir(path)
    return not os.path.exists(directory)


def _mount() -> str | None:
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            # Only where the whole hierarchy is mounted do paths of /proc/PID/cgroup lie below the mount point.
            if right.startswith("cgroup2 ") and left.split()[3] == "/":
                return left.split()[4]
    return None


def _path(pid: int) -> str | None:
    with suppress(OSError), open(f"/proc/{pid}/cgroup") as file:
        for line in file:
            if line.startswith("0::"):
                path = line[3:].rstrip("\n")
                return None if "/.." in path else path
    return None
