"""Writing a checkpoint so that it is whole or not there, also through a kill or a power cut at any moment.

    begin -> PATH/.tmp-…  -> files are written there -> seal: sync and digest of each -> commit: manifest, rename, sync

Standard library only, Python 3.9 and later.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Callable, NamedTuple

from .beside import Beside
from .layout import (
    MANIFEST,
    OPEN_DIRECTORY,
    OPEN_NEW,
    TEMPORARY,
    CheckpointError,
    Damaged,
    File,
    FilesManifest,
    directory,
    files_below,
    is_safe,
    remove_tree,
    sha256_of,
    temporary_name,
)

_NOTHING: Mapping[str, File] = MappingProxyType({})
_MOST_OPEN = 32
"""Files that wait until they are synced."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class UnsafePlace(CheckpointError):
    """A directory in which other users could replace what is written."""


class ManifestFacts(NamedTuple):
    """What a manifest says beside its files."""

    world: int = 1
    attempt: int = 0
    token: int = 0


class CheckpointWriter:
    """A checkpoint that is being written; make it with `begin`. Its files belong into `directory`."""

    def __init__(self, path: str, step: int, directory: str, descriptor: int) -> None:
        self.path = path
        self.step = step
        self.directory = directory
        self._descriptor = descriptor
        """Of the directory. It holds the lock which says that somebody still writes here."""

    def commit(
        self, files: Iterable[File], seconds: Callable[[], float], facts: ManifestFacts = ManifestFacts()
    ) -> FilesManifest:
        """Make it a checkpoint, of these files, which are durable already (see `seal`). Raises OSError: then it is
        none, but where the disk itself failed at the very end."""
        now = datetime.datetime.now(datetime.timezone.utc)
        saved_at = now.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        listed = tuple(sorted(files, key=lambda file: file.path))
        manifest = FilesManifest(self.step, saved_at, round(seconds(), 6), *facts, files=listed)
        self._publish(manifest)
        return manifest

    def abandon(self) -> None:
        """Delete what was written. No error where that is not possible: the next writer tries again."""
        with contextlib.suppress(OSError):
            remove_tree(self.directory)
        self.close()

    def close(self) -> None:
        """Write here no more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _publish(self, manifest: FilesManifest) -> None:
        file = os.open(MANIFEST, OPEN_NEW, 0o600, dir_fd=self._descriptor)
        with open(file, "wb") as out:
            out.write(manifest.encode())
            out.flush()
            os.fsync(file)
        os.fsync(self._descriptor)
        replaced = _move(self.directory, directory(self.path, self.step))
        _sync_directory(self.path)
        self.close()
        if replaced:
            with contextlib.suppress(OSError):
                remove_tree(self.directory)


def begin(path: str, step: int) -> CheckpointWriter:
    """Begin to write the checkpoint of `step` below `path`, which is made where it is missing. What writers that died
    left behind is deleted. Raises `UnsafePlace`, OSError."""
    make_place(path)
    clear(path)
    name = os.path.join(path, temporary_name(step))
    os.mkdir(name, 0o700)
    descriptor = os.open(name, OPEN_DIRECTORY)
    # Some network file systems lock no directories, or not for other nodes. There, the next one to begin also deletes
    # what a writer on another node still writes: that of an attempt which should have ended.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return CheckpointWriter(path, step, name, descriptor)


def make_place(path: str) -> None:
    """Make the directory of checkpoints, for this user alone. Raises `UnsafePlace`, OSError."""
    if not os.path.isdir(path):
        parent = os.path.dirname(os.path.abspath(path))
        os.makedirs(parent, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            _sync_directory(parent)
    check_place(path)


def check_place(path: str) -> None:
    """Whether only this user, or root, could replace what is in the directory. Raises `UnsafePlace`, OSError."""
    status = os.stat(path)
    if status.st_uid not in (os.geteuid(), 0):
        raise UnsafePlace(f"{path} belongs to user {status.st_uid}: checkpoints need a directory of your own")
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise UnsafePlace(f"every user may write to {path}: say `chmod o-w {path}`, or take a directory of your own")


def clear(path: str) -> None:
    """Delete what writers that died left behind. Raises OSError."""
    for name in os.listdir(path):
        if name.startswith(TEMPORARY):
            doomed = os.path.join(path, name)
            if not _is_written(doomed):
                with contextlib.suppress(OSError):
                    remove_tree(doomed)


def seal(
    top: str,
    step: int,
    prefix: str = "",
    *,
    part: Callable[[str], bool] = lambda path: True,
    known: Mapping[str, File] = _NOTHING,
) -> list[File]:
    """Make durable all files and directories below `top`, and tell the files, with `prefix` before their paths.

    `part`: which files, by their path below `top`, where several share the work. `known`: digests of files that were
    taken while they were written. Raises `Damaged` where there is something else than files and directories, OSError.
    """
    descriptor = os.open(top, OPEN_DIRECTORY)
    try:
        paths = [path for path in files_below(descriptor, step) if part(path)]
        for path in paths:
            if not is_safe(prefix + path):
                raise Damaged(step, path, "is a name that Cumulus needs itself, or is too long")
        # The disk works while digests are computed.
        syncing = Beside(_sync_and_close)
        try:
            files = [_seal_file(descriptor, path, prefix, known, syncing) for path in paths]
            syncing.wait()
        finally:
            syncing.end()
        for _, _, _, below in os.fwalk(".", topdown=False, dir_fd=descriptor):
            os.fsync(below)
    finally:
        os.close(descriptor)
    return files


def _seal_file(top: int, path: str, prefix: str, known: Mapping[str, File], syncing: Beside[int]) -> File:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=top)
    try:
        syncing.wait(but=_MOST_OPEN)
        syncing.do(os.dup(descriptor))
        size = os.fstat(descriptor).st_size
        file = known.get(path)
        digest = file.sha256 if file is not None and file.size == size else sha256_of(descriptor)
    finally:
        os.close(descriptor)
    return File(prefix + path, size, digest)


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_written(path: str) -> bool:
    """Whether a writer lives that holds this directory."""
    try:
        descriptor = os.open(path, OPEN_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def _move(source: str, target: str) -> bool:
    """Rename a directory; one that is at the target is exchanged with it. Whether there was one. Raises OSError."""
    try:
        os.rename(source, target)
        return False
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
    if not _exchange(source, target):
        # The file system cannot exchange. A kill between the first two costs this step; the one before it stays.
        aside = f"{source}-replaced"
        os.rename(target, aside)
        os.rename(source, target)
        os.rename(aside, source)
    return True


def _exchange(one: str, other: str) -> bool:
    """Whether both names could be exchanged at once."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))
    return bool(done == 0)


def _sync_directory(path: str) -> None:
    _sync_and_close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
