"""The processes under a supervisor: who they are, what memory they use, and ending them all.

The supervisor is their subreaper: whatever forks twice, calls setsid or changes its group becomes a child of
the supervisor when its parent ends, so the tree below the supervisor is complete. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time

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


def kill_all(pid: int) -> bool:
    """SIGKILL everything below `pid`, stopped first so that it cannot fork away. False: nothing was there."""
    seen: set[int] = set()
    while fresh := [p for p in descendants(pid) if p not in seen]:
        send(fresh, signal.SIGSTOP)
        seen.update(fresh)
    send(list(seen), signal.SIGKILL)
    return bool(seen)


def end_marked(mark: str, grace: float) -> None:
    """End every process whose environment holds `mark`, and what is below them: SIGTERM, `grace` seconds, SIGKILL.

    Returns when none is left. For processes that have lost their supervisor."""
    deadline = time.monotonic() + grace
    terminated: set[int] = set()
    while left := _with_descendants(marked(mark)):
        if time.monotonic() >= deadline:
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
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(name) == pid]


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


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
