"""The processes under a supervisor: who they are, what memory they use, and ending them all.

The supervisor is their subreaper: whatever forks twice, calls setsid or changes its group becomes a child of
the supervisor when its parent ends, so the tree below the supervisor is complete as long as the supervisor lives.
Where there are cgroups, the job is in one of its own, which holds it without a supervisor too. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time

from cumulus.backends.process import layout
from cumulus.lib import cgroup

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_AGAIN = 0.05


def become_subreaper() -> None:
    """Adopt the orphans among this process's descendants (prctl(2), Linux 3.4). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, parents before children; zombies too. Racy by nature: callers look again."""
    found: list[int] = []
    pending = [pid]
    while pending:
        for child in _children(pending.pop()):
            found.append(child)
            pending.append(child)
    return found


def send(pids: list[int], number: int) -> None:
    """Signal each one that is still there and may be signalled."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def kill_all(pid: int, enclosure: str = "") -> bool:
    """SIGKILL everything in the cgroup and below `pid`, stopped first so that it cannot fork away.

    False: nothing was below `pid`."""
    cgroup.kill(enclosure)
    seen: set[int] = set()
    while fresh := [p for p in descendants(pid) if p not in seen]:
        send(fresh, signal.SIGSTOP)
        seen.update(fresh)
    send(list(seen), signal.SIGKILL)
    return bool(seen)


def end_children() -> None:
    """Kill and reap everything below this process. Returns when none is left."""
    while True:
        kill_all(os.getpid())
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(_LOOK_AGAIN)


def end_orphans(mark: str, session: int, grace: float, enclosure: str) -> None:
    """End what lost its supervisor: SIGTERM, `grace` seconds, SIGKILL. Returns when none is left.

    That is every process in the job's cgroup `enclosure`, if it had one, every one whose environment holds `mark`,
    those still in the supervisor's `session`, and what is below them. While a session has members, its number is not
    used for another process."""
    deadline = time.monotonic() + grace
    terminated: set[int] = set()
    while left := _with_descendants([*cgroup.members(enclosure), *marked(mark), *in_session(session)]):
        layout.show_progress()
        if time.monotonic() >= deadline:
            cgroup.kill(enclosure)
            send(left, signal.SIGKILL)
        else:
            send([pid for pid in left if pid not in terminated], signal.SIGTERM)
            terminated.update(left)
        time.sleep(_LOOK_AGAIN)


def marked(mark: str) -> list[int]:
    """The live processes whose environment at exec holds the entry `mark`, as far as it may be read."""
    entry = mark.encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if entry in file.read().split(b"\0"):
                        found.append(int(name))
            except OSError:
                continue
    return found


def in_session(session: int) -> list[int]:
    """The processes of a session whose leader has ended; none where there is a leader, which is another's then.

    0 is the session of all whose leader is outside this pid namespace, and what a damaged file may well hold: on many
    machines that is everything."""
    if type(session) is not int or session <= 1 or os.path.exists(f"/proc/{session}"):
        return []
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _stat(pid)[3:4] == [str(session)]]


def memory_bytes(pids: list[int], limit: int) -> int:
    """Memory of the processes' own (anonymous and shared memory, no file pages), in bytes.

    Counted per process first, which counts pages shared after fork many times; only where that passes `limit`
    by proportional share (Pss of smaps_rollup), which is exact and slow. Device memory is not in it.
    """
    counted = sum(_private(pid) for pid in pids)
    if counted <= limit:
        return counted
    return sum(_proportional(pid) for pid in pids)


def _with_descendants(pids: list[int]) -> list[int]:
    return list(dict.fromkeys([*pids, *(below for pid in pids for below in descendants(pid))]))


def _children(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    children: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                children.extend(map(int, file.read().split()))
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{thread}/stat"):
                return _children_by_scan(pid)
        except OSError:
            continue
    return children


def _children_by_scan(pid: int) -> list[int]:
    """For kernels without CONFIG_PROC_CHILDREN."""
    return [child for child in map(int, filter(str.isdigit, os.listdir("/proc"))) if _stat(child)[1:2] == [str(pid)]]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name: state, parent, group, session. Empty where it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _private(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            status = file.read()
    except OSError:
        return 0
    return sum(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith((b"RssAnon:", b"RssShmem:"))
    )


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            rollup = file.read()
    except OSError:
        return _private(pid)
    return sum(
        int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith((b"Pss_Anon:", b"Pss_Shmem:"))
    )
