"""`CheckpointStore` for files of this machine. The checkpoint is what is written at or below a path.

The time is that of the last change to a file (st_ctime), which a program cannot set back. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime

from cumulus.backends.checkpoints import (
    CheckpointUnseen,
    LastCheckpoint,
    SealedCheckpoint,
    document_of,
    read_saved,
)
from cumulus.clock import timestamp
from cumulus.lib.printable import one_line
from cumulus.lib.readable import is_readable
from cumulus.lib.unix_user import UnixUser, become

_MOST_FILES = 20_000
_LONGEST_WORD = 300
_NO_CHECKPOINTS = (".tmp-", ".uploader")
_MOST_TRIED = 8
"""Checkpoints whose manifest is looked at: the newest may be damaged, or being written."""


class CheckpointFiles:
    """The files at or below `path`. A file system that does not answer is waited for `patience` seconds. `user`: as
    whom to look, where that is not this process's own user. For a process of one thread: it forks."""

    def __init__(self, path: str, patience: float = 5.0, user: UnixUser | None = None) -> None:
        self._path = path
        self._user = user
        self._patience = patience

    def newest(self) -> LastCheckpoint | None:
        """See `CheckpointStore.newest`."""
        said = answer_of(lambda: _newest(self._path), self._user, self._patience)
        return LastCheckpoint(self._path, said) if said else None

    def saved(self, known: SealedCheckpoint | None = None) -> SealedCheckpoint | None:
        """See `CheckpointStore.saved`."""
        if self._user is not None:
            # Loaded before a child becomes that user, who need not be able to read Cumulus.
            from cumulus.checkpoint import layout  # noqa: F401
            from cumulus.uploader import status  # noqa: F401
        said = answer_of(lambda: json.dumps(document_of(newest_saved(self._path, known))), self._user, self._patience)
        return read_saved(json.loads(said)) if said != "null" else None


def answer_of(action: Callable[[], str], user: UnixUser | None, patience: float) -> str:
    """What `action` returns in a child of this process, which is `user` where one is given: it touches what a job
    named, and that may take for ever. Raises `CheckpointUnseen`."""
    readable, writable = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            if user is not None:
                become(user)
            os.write(writable, b"=" + action().encode())
        finally:
            os._exit(0)
    os.close(writable)
    with open(readable, "rb") as answer:
        if not is_readable(answer, patience):
            os.kill(child, signal.SIGKILL)
            raise CheckpointUnseen("the file system of the checkpoint does not answer")
        said = answer.read().decode()
    os.waitpid(child, 0)
    if not said:
        raise CheckpointUnseen("the checkpoint could not be looked at")
    return said[1:]


def newest_saved(path: str, known: SealedCheckpoint | None = None) -> SealedCheckpoint | None:
    """The newest checkpoint below a directory whose manifest is one and belongs to this process's user; nothing behind
    a link is looked at. Where it is still the `known` one, it is not read again."""
    if known is not None and known.time == _manifest_time(known.path) and not _newer(path, known.step):
        return _with_upload(known, path)
    # Loaded where there is something to read: a look mostly finds nothing new.
    from cumulus.checkpoint import layout

    try:
        steps = layout.steps(path)[:_MOST_TRIED]
    except OSError:
        return None
    for step in steps:
        try:
            manifest = layout.read_manifest(path, step)
            directory = layout.directory(path, step)
            found = SealedCheckpoint(step, _manifest_time(directory), manifest.size, manifest.seconds, directory)
            return _with_upload(found, path)
        except (layout.Damaged, OSError):
            continue
    return None


def _with_upload(found: SealedCheckpoint, path: str) -> SealedCheckpoint:
    """With how far the uploader of the directory is. The job can write what it says: it is for people."""
    if not os.path.isdir(os.path.join(path, ".uploader")):
        return found
    from cumulus.uploader import status

    try:
        told = status.read(path)
    except OSError:
        told = None
    if told is None:
        return found
    step = told.step if told.step is not None else -1
    return found._replace(uploaded=step, upload_error=one_line(told.error)[:_LONGEST_WORD])


def _newer(path: str, step: int) -> bool:
    """Whether there may be a later one than that of the step."""
    try:
        return any(name.startswith("step-") and name > f"step-{step:012}" for name in os.listdir(path))
    except OSError:
        return True


def _manifest_time(directory: str) -> str:
    """When its manifest was written, "" where it has none."""
    try:
        return _moment(os.lstat(os.path.join(directory, "manifest.json")).st_ctime)
    except OSError:
        return ""


def _newest(path: str) -> str:
    """When the newest file at or below `path` was written, "" where there is none. Links are not followed, and what is
    half written or of the uploader does not count."""
    last, seen = 0.0, 0
    places = [path]
    while places:
        place = places.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    seen += 1
                    if entry.name.startswith(_NO_CHECKPOINTS):
                        continue
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
    return _moment(last) if last else ""


def _moment(since_epoch: float) -> str:
    return timestamp(datetime.fromtimestamp(since_epoch, UTC))
