"""File locks that wait for a limited time and name who holds one too long. Standard library only.

A process that was stopped (SIGSTOP, a debugger, a frozen container) keeps its locks. Whoever waits must not do so for
ever or in silence, and a person must learn which process to look at.
"""

from __future__ import annotations

import fcntl
import os
import time

from cumulus.lib import processes

_PAUSE = 0.005


def acquire(descriptor: int, seconds: float, *, spin: float = 0.0, pause: float = _PAUSE) -> bool:
    """Take the exclusive flock; False where others held it for all of these seconds.

    It polls, at once for `spin` seconds and then every `pause`: a blocking flock has no time-out, and a holder that was
    stopped would hang all.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        pass
    start = time.monotonic()
    while not try_lock(descriptor):
        waited = time.monotonic() - start
        if waited >= seconds:
            return False
        if waited < spin:
            os.sched_yield()
        else:
            time.sleep(pause)
    return True


def try_lock(descriptor: int) -> bool:
    """Take the exclusive flock; False where others hold it now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holders(*paths: str | os.PathLike[str], shared: bool = False) -> list[int]:
    """The processes that hold an exclusive lock on one of the files, other than this one, as far as the kernel shows
    them. With `shared` also those that share one.

    The files are not opened: closing one would drop the POSIX locks that this process holds on it (fcntl(2))."""
    wanted = set()
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            continue
        wanted.add((f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}", str(found.st_ino)))
    try:
        with open("/proc/locks", encoding="ascii") as file:
            # 1: POSIX  ADVISORY  WRITE 4711 fe:01:1234 0 EOF. Lines with "->" wait.
            lines = [words for line in file if "->" not in (words := line.split()) and len(words) >= 8]
    except OSError:
        return []
    kinds = ("WRITE", "READ") if shared else ("WRITE",)
    held = [(int(words[4]), *words[5].rpartition(":")[::2]) for words in lines if words[3] in kinds]
    inodes = {inode for _, inode in wanted}
    pids = {pid for pid, device, inode in held if (device, inode) in wanted}
    # Some file systems show another device here than to stat(2).
    pids = pids or {pid for pid, _, inode in held if inode in inodes}
    return sorted(pid for pid in pids - {os.getpid()} if pid > 0)


def blame(path: str | os.PathLike[str], *more: str | os.PathLike[str]) -> tuple[str, str]:
    """Who keeps others from the lock on the file, and what to do about it."""
    pids = holders(path, *more)
    # The others wait for it themselves, one lock further.
    pids = [pid for pid in pids if is_stopped(pid)] or pids
    return described(pids), hint(pids, path)


def described(pids: list[int]) -> str:
    """Those processes, for a message: `process 4711 (cumulus), which is stopped`."""
    return " and ".join(map(_described, pids[:3])) if pids else "another process"


def hint(pids: list[int], path: str | os.PathLike[str]) -> str:
    """What to do about them."""
    halted = [pid for pid in pids if is_stopped(pid)]
    if halted:
        numbers = " ".join(map(str, halted))
        return f"let it go on with `kill -CONT {numbers}`, or end it with `kill -KILL {numbers}`: jobs go on without it"
    return "try again; look at that process if it lasts" if pids else f"see who holds it with `fuser {path}`"


def is_stopped(pid: int) -> bool:
    """Whether the process was stopped, by a signal or a debugger."""
    proc = processes.read(pid)
    return proc is not None and proc.stopped


def _described(pid: int) -> str:
    from cumulus.lib.printable import one_line  # For an error's text alone: it costs every command a millisecond.

    return f"process {pid} ({one_line(processes.name(pid)) or '?'}){', which is stopped' if is_stopped(pid) else ''}"
