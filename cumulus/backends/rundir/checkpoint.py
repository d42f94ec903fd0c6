"""When a job's checkpoint was written last: what shows that a job which wants a new lease has saved. Used by the
supervisor only.

Standard library only. The time is that of the last change to a file (st_ctime), which a program cannot set back.
"""

from __future__ import annotations

import os
import select
import signal
from datetime import UTC, datetime
from typing import Any

from cumulus.clock import timestamp

_PATIENCE = 5.0
"""Seconds for which a file system that does not answer is waited for."""

_MOST_FILES = 20_000


def written(spec: dict[str, Any]) -> str | None:
    """When the newest file of the run's checkpoint was written, "" where there is none; None where the job names no
    path, or its file system does not answer."""
    path: str | None = spec["fixed_env"].get("CUMULUS_CHECKPOINT_PATH")
    if path is None:
        return None
    readable, writable = os.pipe2(os.O_CLOEXEC)
    # In a child: the job chose the path, and looking there may take for ever.
    child = os.fork()
    if child == 0:
        try:
            os.write(writable, b"=" + newest(path).encode())
        finally:
            os._exit(0)
    os.close(writable)
    with open(readable, "rb") as answer:
        if not select.select([answer], [], [], _PATIENCE)[0]:
            os.kill(child, signal.SIGKILL)
            return None
        said = answer.read()
    os.waitpid(child, 0)
    return said[1:].decode() if said else None


def newest(path: str) -> str:
    """When the newest file at or below `path` was written, "" where there is none. Links are not followed."""
    last, seen = 0.0, 0
    places = [path]
    while places:
        place = places.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    seen += 1
                    if entry.is_dir(follow_symlinks=False):
                        places.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        last = max(last, entry.stat(follow_symlinks=False).st_ctime)
                    if seen >= _MOST_FILES:
                        places.clear()
                        break
        except NotADirectoryError:
            last = max(last, os.stat(place).st_ctime)
        except OSError:
            continue
    return timestamp(datetime.fromtimestamp(last, UTC)) if last else ""
