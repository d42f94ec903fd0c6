"""A cgroup for each lease where this user may make one (root, as a rule), and in it one for each program.

cgroup v2 only (docs.kernel.org/admin-guide/cgroup-v2.html), also where it is mounted beside version 1. The lease's
cgroup lies inside the one in which its process was started, so that limits and accounting of a systemd unit or a
container go on as they were. A process leaves its cgroup only by writing to one that it may write, as root may;
the monitor looks for that. Standard library only and light: each running job's supervisor imports this.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress

_PREFIX = "chronos-"
_ROUNDS = 20


def enclose(pid: int, name: str) -> str | None:
    """Move the process into the cgroup `chronos-NAME`. Returns the directory it is in, None where it cannot.

    A process that another has put elsewhere, a container's say, is left where it is.
    """
    root, here, there = _mount(), _path(os.getpid()), _path(pid)
    if root is None or here is None or there is None:
        return None
    if there.startswith(f"{here.rstrip('/')}/{_PREFIX}"):
        # It is in the cgroup of another lease that it holds, or of this one.
        return root + there
    if there != here:
        return None
    directory = make(name)
    if directory is not None and not enter(directory, pid):
        remove(directory)
        return None
    return directory


def make(name: str) -> str | None:
    """Make the cgroup `chronos-NAME`, empty, in this process's own. Returns its directory, None where it cannot."""
    root, here = _mount(), _path(os.getpid())
    if root is None or here is None:
        return None
    directory = f"{root}{here.rstrip('/')}/{_PREFIX}{name}"
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError:
        return None
    return directory


def name(lease: str, pid: int, start: int) -> str:
    """For `make`: of what an attached process runs, or the job that it supervises, below the cgroup of the lease."""
    return f"{lease}/{pid}-{start}"


def is_named(directory: str, lease: str) -> bool:
    """Whether that is the cgroup of the lease."""
    return os.path.basename(directory) == f"{_PREFIX}{lease}"


def place_of(pid: int, start: int, directories: Iterable[str]) -> str | None:
    """What was made for the attached process, of a lease that has those cgroups. None where nothing was."""
    own = f"{pid}-{start}"
    for directory in directories:
        place = directory if os.path.basename(directory) == own else f"{directory}/{own}"
        if os.path.isdir(place):
            return place
    return None


def enter(directory: str, pid: int) -> bool:
    """Move the process into the cgroup. False where that is not allowed, or one of the two is gone."""
    return _write(f"{directory}/cgroup.procs", str(pid))


def why_unavailable() -> tuple[str, str]:
    """Why this process cannot put jobs into cgroups, and what would mend it; two "" where it can.

    Found out by making one, and moving a child there.
    """
    if _mount() is None:
        return "no cgroup v2 is mounted here", "boot with systemd.unified_cgroup_hierarchy=1"
    directory = make(f"probe-{os.getpid()}")
    if directory is None:
        return "cgroup v2 cannot be written", "run as root, or delegate a cgroup to this user (systemd: Delegate=yes)"
    # Not forked: who asks may have threads.
    child = os.posix_spawnp("sleep", ["sleep", "10"], os.environ)
    try:
        entered = enter(directory, child)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        remove(directory)
    if not entered:
        return "no process can be moved between cgroups", "run as root, or as a systemd service with Delegate=yes"
    return "", ""


def is_ours(directory: object) -> bool:
    """Whether that may be the directory of a cgroup made here: what is read from a file may be damaged."""
    return isinstance(directory, str) and f"/{_PREFIX}" in directory and "/.." not in directory


def leave() -> None:
    """Leave the cgroup of a lease, where this process was started in one. The monitor must not be ended with it."""
    root, here = _mount(), _path(os.getpid())
    if root is not None and here is not None and f"/{_PREFIX}" in here:
        enter(root + here.partition(f"/{_PREFIX}")[0], os.getpid())


def members(directory: str) -> set[int]:
    """The processes in the cgroup and those below it, without zombies."""
    return set(places(directory))


def places(directory: str) -> dict[int, str]:
    """The processes in the cgroup and those below it, each with the directory of the one it is in."""
    found: dict[int, str] = {}
    for path, _, _ in os.walk(directory):
        with suppress(OSError), open(f"{path}/cgroup.procs") as file:
            found.update((int(pid), path) for pid in file.read().split())
    # 0 stands for a process that this one's PID namespace does not show.
    found.pop(0, None)
    return found


def directory_of(pid: int) -> str | None:
    """The directory of the cgroup that the process is in; None where it is gone, or that is not to be seen here."""
    root, there = _mount(), _path(pid)
    return None if root is None or there is None else f"{root}{there}".rstrip("/")


def owner(path: str, hierarchy: str) -> int | None:
    """Whose the cgroup is that /proc/PID/cgroup shows as `path` of that hierarchy (its controllers, "" for version 2);
    -1 where it is gone, None where that hierarchy is not to be seen here."""
    wanted = {name.removeprefix("name=") for name in hierarchy.split(",")}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            left, _, right = line.rstrip("\n").partition(" - ")
            options = {option.removeprefix("name=") for option in right.rpartition(" ")[2].split(",")}
            meant = right.startswith("cgroup ") and wanted <= options if hierarchy else right.startswith("cgroup2 ")
            root, place = left.split()[3:5]
            if meant and root == "/" and "/.." not in path:
                try:
                    return os.stat(f"{place}{path}").st_uid
                except OSError:
                    return -1
    return None


def is_inside(pid: int, directory: str) -> bool:
    """Whether the process is in the cgroup or one below it, by its own account; True too where it is gone."""
    root, there = _mount(), _path(pid)
    return root is None or there is None or f"{root}{there}/".startswith(f"{directory}/")


def populated(directory: str) -> bool:
    """Whether a process lives in the cgroup or below it, also one that is just being forked."""
    with suppress(OSError), open(f"{directory}/cgroup.events") as file:
        return "populated 1" in file.read()
    return False


def kill(directory: str) -> None:
    """SIGKILL all of them at once, those that are just being forked too; before Linux 5.14 one after another."""
    if os.path.isdir(directory) and not _write(f"{directory}/cgroup.kill", "1"):
        kill_each(directory)


def kill_each(directory: str) -> None:
    """What `kill` does where the kernel has no cgroup.kill: frozen, none of them forks away, and each can be killed."""
    freeze(directory)
    for _ in range(_ROUNDS):
        handles = {}
        for pid in members(directory):
            with suppress(OSError):
                handles[pid] = os.pidfd_open(pid)
        # Once more, with the handles open: who is in it now is whom they mean.
        still = members(directory)
        for pid, handle in handles.items():
            with suppress(OSError):
                if pid in still:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)
        if not still:
            break
    thaw(directory)


def freeze(directory: str) -> bool:
    """Let all processes in the cgroup and below it stand still: those that are forked meanwhile too. False where that
    cannot be; the kernel may take a moment, see `is_frozen`."""
    return _write(f"{directory}/cgroup.freeze", "1")


def thaw(directory: str) -> None:
    """Undo `freeze`; harmless where nothing is frozen."""
    _write(f"{directory}/cgroup.freeze", "0")


def is_frozen(directory: str) -> bool:
    """Whether all of them stand still."""
    with suppress(OSError), open(f"{directory}/cgroup.events") as file:
        return "frozen 1" in file.read()
    return False


def memory_room(directory: str) -> int | None:
    """Bytes of main memory that processes of the cgroup may still take, by its own limit and those above it; None
    where there is no limit."""
    least: int | None = None
    while os.path.exists(f"{directory}/memory.current"):
        with (
            suppress(OSError, ValueError),
            open(f"{directory}/memory.max") as most,
            open(f"{directory}/memory.current") as now,
        ):
            room = max(0, int(most.read()) - int(now.read()))
            least = room if least is None else min(least, room)
        directory = os.path.dirname(directory)
    return least


def remove(directory: str) -> bool:
    """Delete the cgroup and those below it. False where one stays, which it does until its last zombie is reaped."""
    for path, _, _ in os.walk(directory, topdown=False):
        with suppress(OSError):
            os.rmdir(path)
    return not os.path.exists(directory)


def _write(path: str, text: str) -> bool:
    try:
        # Not by `open`: it would create what is not there, which cgroupfs refuses with another error.
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(file, text.encode())
    except OSError:
        return False
    finally:
        os.close(file)
    return True


def _mount() -> str | None:
    """Where cgroup v2 is mounted."""
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
