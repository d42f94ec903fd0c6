"""What a node's own disk has of a job's checkpoints, where nothing newer can be anywhere else: then no place is asked,
and nothing that asks one is loaded. Standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from cumulus.checkpoint import layout
from cumulus.checkpoint.layout import Checkpoint, Damaged
from cumulus.lib.readable import is_readable
from cumulus.lib.unix_user import UnixUser, become

FRESH = 3600.0
"""Seconds for which what was written since the machine's start is as it was: it was made durable, and no power cut
followed. Only its sizes are looked at. The program reads every byte anyway: to do that twice would take as long again
as its load, between the last step of one lease and the first of the next."""
_LOOK = 0.2


def newest_since(path: str, since: int) -> Checkpoint | None:
    """The newest in `path`, where it is whole and of the attempt `since` or a later one: of another, only the manifest
    is read."""
    with contextlib.suppress(Damaged, OSError):
        for step in layout.steps(path)[:1]:
            if layout.read_manifest(path, step).attempt >= since:
                read = (lambda name: False) if _is_fresh(layout.directory(path, step)) else (lambda name: True)
                return layout.verify(path, step, part=read)
    return None


def step_since(path: str, since: int, user: UnixUser | None, check: Callable[[], None] = lambda: None) -> int | None:
    """The step of that one, looked for in a child of this process, which has one thread, as `user`, if one is given.
    What `check` raises meanwhile ends it."""
    readable, writable = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            if user is not None and os.geteuid() != user.uid:
                become(user)
            found = newest_since(path, since)
            os.write(writable, b"" if found is None else b"%d" % found.step)
        finally:
            os._exit(0)
    os.close(writable)
    try:
        with open(readable, "rb") as answer:
            while not is_readable(answer, _LOOK):
                check()
            said = answer.read()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return int(said) if said else None


def _is_fresh(directory: str) -> bool:
    """By the time at which the kernel wrote its manifest, which was after all of its files."""
    age = time.time() - os.lstat(os.path.join(directory, layout.MANIFEST)).st_ctime
    return 0 <= age < min(FRESH, time.clock_gettime(time.CLOCK_BOOTTIME))
