"""`CheckpointStore` for files of this machine. The checkpoint is what is written at or below a path.

The time is that of the last change to a file (st_ctime), which a program cannot set back. Standard library only.
"""

from __future__ import annotations

import os
import select
import signal
from datetime import UTC, datetime

from cumulus.backends.checkpoints import Checkpoint, CheckpointUnseen
from cumulus.clock import timestamp
from cumulus.lib.unix_user import UnixUser, become

_MOST_FILES = 20_000


class CheckpointFiles:
    """The files at or below `path`. A file system that does not answer is waited for `patience` seconds. `user`: as
    whom to look, where that is not this process's own user."""

    def __init__(self, path: str, patience: float = 5.0, user: UnixUser | None = None) -> None:
        self._path = path
        self._user = user
        self._patience = patience

    def newest(self) -> Checkpoint | None:
        """See `CheckpointStore.newest`. For a process of one thread: it forks."""
        readable, writable = os.pipe2(os.O_CLOEXEC)
        # In a child: the job chose the path, and looking there may take for ever.
        child = os.fork()
        if child == 0:
            try:
                if self._user is not None:
                    become(self._user)
                os.write(writable, b"=" + _newest(self._path).encode())
            finally:
                os._exit(0)
        os.close(writable)
        with open(readable, "rb") as answer:
            if not select.select([answer], [], [], self._patience)[0]:
                os.kill(child, signal.SIGKILL)
                raise CheckpointUnseen(f"the file system of {self._path} does not answer")
            said = answer.read().decode()
        os.waitpid(child, 0)
        if not said:
            raise CheckpointUnseen(f"{self._path} could not be looked at")
        return Checkpoint(self._path, said[1:]) if said[1:] else None


def _newest(path: str) -> str:
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
