"""Processes as /proc shows them, and signals that cannot hit another process. Linux only, standard library only.

Pids are reused, so a process is named by its pid and start time, and signalled through a pidfd.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_LARGEST_ENVIRONMENT = 6 * 2**20
"""Bytes of arguments and environment that a program can be started with (execve(2))."""
_MASKS = (b"SigBlk:", b"SigIgn:", b"SigCgt:")
"""Of /proc/PID/status: signals as bits, the first of them for 1 (proc_pid_status(5))."""


def boot_id() -> str:
    """Names this boot of the machine: monotonic times and process ids mean nothing in another."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class Proc(NamedTuple):
    """A line of /proc/PID/stat (proc_pid_stat(5)). `start` is in clock ticks since boot."""

    pid: int
    parent: int
    group: int
    session: int
    start: int
    alive: bool
    """False for a zombie all of whose threads have ended."""
    stopped: bool = False


class ProcessIdentity(NamedTuple):
    """What a pid meant when it was seen."""

    pid: int
    start: int


def read(pid: int) -> Proc | None:
    """The process now, None where it is gone."""
    line = content(f"/proc/{pid}/stat")
    if not line:
        return None
    # The name in parentheses may hold anything, parentheses too.
    fields = line[line.rfind(b")") + 2 :].split()
    state, parent, group, session, threads, start = *fields[:4], fields[17], fields[19]
    # A leader that ended before its other threads is a zombie that still runs.
    alive = state not in (b"Z", b"X", b"x") or int(threads) > 1
    return Proc(pid, int(parent), int(group), int(session), int(start), alive, state in (b"T", b"t"))


def send(target: ProcessIdentity, number: int) -> bool:
    """Signal that very process, never a later one of the same pid. False where it is gone.

    Raises PermissionError where it is another user's.
    """
    try:
        handle = os.pidfd_open(target.pid)
    except ProcessLookupError:
        return False
    try:
        now = read(target.pid)
        if now is None or now.start != target.start:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def is_alive(target: ProcessIdentity) -> bool:
    """Whether that very process runs now."""
    proc = read(target.pid)
    return proc is not None and proc.start == target.start and proc.alive


def is_gone(pid: int) -> bool:
    """Whether no process of that number runs here, also none that this user may not see."""
    proc = read(pid)
    if proc is not None:
        return not proc.alive
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def is_stopped(target: ProcessIdentity) -> bool:
    """Whether that very process is stopped by a signal, or by a debugger."""
    proc = read(target.pid)
    return proc is not None and proc.start == target.start and proc.stopped


def pids() -> set[int]:
    """Those of all processes now."""
    return {int(name) for name in os.listdir("/proc") if name.isdecimal()}


def children(pid: int) -> list[int]:
    """The pids of a process's children, of all its threads; zombies too. Racy by nature: callers look again."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
        except FileNotFoundError:
            if os.path.exists(f"/proc/{pid}/task/{thread}/stat"):
                # A kernel without CONFIG_PROC_CHILDREN.
                return [proc.pid for proc in map(read, pids()) if proc is not None and proc.parent == pid]
        except OSError:
            continue
    return found


def descendants(pid: int) -> list[int]:
    """The pids of every process below `pid`, parents before children; as racy as `children`."""
    found: list[int] = []
    pending = [pid]
    while pending:
        for child in children(pending.pop()):
            found.append(child)
            pending.append(child)
    return found


def living(candidates: Iterable[int]) -> set[ProcessIdentity]:
    """Those of the pids whose processes are alive now."""
    found = map(read, candidates)
    return {ProcessIdentity(proc.pid, proc.start) for proc in found if proc is not None and proc.alive}


def environment(pid: int) -> list[bytes]:
    """The entries NAME=VALUE that a process was started with; empty where it is gone or another user's."""
    return environment_block(pid).split(b"\0")


def environment_block(pid: int) -> bytes:
    """As it lies in the process's memory. A process may say that terabytes of that are its environment
    (PR_SET_MM_MAP): no more is read than the kernel would have started it with."""
    return content(f"/proc/{pid}/environ", _LARGEST_ENVIRONMENT)


def name(pid: int) -> str:
    """What the process calls itself, as it wrote it (PR_SET_NAME); "" where it is gone."""
    return content(f"/proc/{pid}/comm").decode(errors="replace").removesuffix("\n")


def user(pid: int) -> int | None:
    """The lowest of the process's real, effective and saved user; None where it is gone.

    Not the owner of /proc/PID: that is root for any process that lets nobody look into it (PR_SET_DUMPABLE).
    """
    users = status_field(pid, b"Uid:")
    return min(map(int, users[:3])) if users else None


def status_field(pid: int, name: bytes) -> list[bytes]:
    """The words of a line of /proc/PID/status (proc_pid_status(5)), as `Uid:`; none where the process is gone."""
    return status(pid).get(name, [])


def status(pid: int) -> dict[bytes, list[bytes]]:
    """The words of each of those lines, by how it begins, all of one moment; empty where the process is gone."""
    lines = (line.split() for line in content(f"/proc/{pid}/status").splitlines())
    return {words[0]: words[1:] for words in lines if words}


def takes_default(pid: int, number: int) -> bool:
    """Whether the signal does to the process what it does by default: it is neither caught, ignored nor blocked there.
    False where the process is gone."""
    masks = [line.split()[1] for line in content(f"/proc/{pid}/status").splitlines() if line.startswith(_MASKS)]
    return len(masks) == len(_MASKS) and not any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def pid_namespace(pid: int) -> str:
    """Which PID namespace the process is in; "" where it is gone or another user's."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def memory_bytes(pids: Iterable[int], limit: int) -> int:
    """Memory of the processes' own (anonymous and shared memory, no file pages), in bytes.

    Counted per process first, which counts pages shared after fork many times; only where that passes `limit`
    by proportional share (Pss of smaps_rollup), which is exact and slow. Device memory is not in it.
    """
    pids = list(pids)
    counted = sum(map(_private, pids))
    return counted if counted <= limit else sum(map(_proportional, pids))


def become_subreaper() -> None:
    """Adopt the orphans among this process's descendants (prctl(2)). Raises OSError."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def is_subreaper() -> bool:
    """Whether this process adopts the orphans among its descendants."""
    import ctypes

    flag = ctypes.c_int()
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0)
    return bool(flag.value)


def content(path: str, most: int = sys.maxsize) -> bytes:
    """The first bytes of a file of /proc, without the cost of a file object; empty where it is gone or not to be
    read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    parts = []
    try:
        while most > 0 and (part := os.read(handle, min(65536, most))):
            parts.append(part)
            most -= len(part)
    except OSError:
        return b""
    finally:
        os.close(handle)
    return b"".join(parts)


def _private(pid: int) -> int:
    return _kibibytes(f"/proc/{pid}/status", (b"RssAnon:", b"RssShmem:")) or 0


def _proportional(pid: int) -> int:
    told = _kibibytes(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:"))
    return _private(pid) if told is None else told


def _kibibytes(path: str, fields: tuple[bytes, ...]) -> int | None:
    """The sum of these lines of a file of /proc, in bytes; None where it cannot be read."""
    lines = content(path).splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(fields)) if lines else None
