"""A `Place` in a directory that nodes share. What is being written is in `.partial`, by the hash of its name.

Everything is made for its owner alone, and what others own or may write is not believed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from cumulus.checkpoint.layout import File, sha256_of
from cumulus.errors import BlobStoreUnavailable, ObjectChanged
from cumulus.lib.files import make_directories, sync_directory
from cumulus.uploader.config import Config
from cumulus.uploader.place import Notes, StoredFile, Unfaithful

_PIECE = 4 * 2**20
_PARTIAL, _LOCK = ".partial", ".lock"
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class DirectoryPlace:
    def __init__(self, directory: str) -> None:
        self._directory = directory

    @property
    def uri(self) -> str:
        return f"file://{self._directory}"

    def renew(self, config: Config) -> None:
        """It needs no keys."""

    def read(self, key: str) -> tuple[bytes, str] | None:
        with self._told():
            try:
                with self._opened(key) as descriptor:
                    content = b""
                    while piece := os.pread(descriptor, _PIECE, len(content)):
                        content += piece
            except FileNotFoundError:
                return None
        return content, hashlib.sha256(content).hexdigest()

    def put(self, key: str, content: bytes, version: str = "") -> None:
        with self._told():
            path = self._made(key)
            with self._locked():
                found = self.read(key)
                if found is not None and found[0] == content:
                    return
                if ("" if found is None else found[1]) != version:
                    raise ObjectChanged(f"{key} in {self.uri} has changed meanwhile")
                partial = self._partial(f"{key} {os.getpid()}")
                with _writing(partial, os.O_TRUNC) as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(partial, path)
                sync_directory(os.path.dirname(path))

    def has(self, key: str, file: File) -> bool:
        with self._told():
            try:
                with self._opened(key) as descriptor:
                    return os.fstat(descriptor).st_size == file.size and sha256_of(descriptor) == file.sha256
            except (FileNotFoundError, Unfaithful):
                return False

    def send(self, key: str, file: File, descriptor: int, notes: Notes, sent: Callable[[int], None]) -> None:
        with self._told():
            path = self._made(key)
            partial = self._partial(f"{key} {file.sha256}")
            try:
                with _writing(partial, 0) as target:
                    digest = hashlib.sha256()
                    for place in range(0, file.size, _PIECE):
                        piece = os.pread(descriptor, min(_PIECE, file.size - place), place)
                        digest.update(piece)
                        # Of an earlier try; after a power cut it may be anything.
                        if os.pread(target.fileno(), len(piece), place) != piece:
                            _write_all(target.fileno(), piece, place)
                            sent(len(piece))
                    os.ftruncate(target.fileno(), file.size)
                    if digest.hexdigest() != file.sha256:
                        os.unlink(partial)
                        raise Unfaithful(f"{file.path} does not match its sha256")
                    os.fsync(target.fileno())
                os.rename(partial, path)
                sync_directory(os.path.dirname(path))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    # Half a checkpoint is of no use, and keeps others from theirs.
                    with suppress(OSError):
                        os.unlink(partial)
                raise

    def fetch(self, key: str, file: File, descriptor: int) -> None:
        digest = hashlib.sha256()
        with self._told():
            try:
                with self._opened(key) as source:
                    size = os.fstat(source).st_size
                    if size != file.size:
                        raise Unfaithful(f"{file.path} has {size} bytes instead of {file.size}")
                    for place in range(0, size, _PIECE):
                        piece = os.pread(source, min(_PIECE, size - place), place)
                        digest.update(piece)
                        _write_all(descriptor, piece, place)
            except (FileNotFoundError, NotADirectoryError):
                raise Unfaithful(f"{file.path} is missing") from None
        if digest.hexdigest() != file.sha256:
            raise Unfaithful(f"{file.path} does not match its sha256")

    def list(self, prefix: str) -> Iterator[StoredFile]:
        now = self._now()
        with self._told():
            for path in _walk(os.path.join(self._directory, os.path.dirname(prefix))):
                key = os.path.relpath(path, self._directory)
                if key.startswith(prefix):
                    with suppress(FileNotFoundError):
                        found = os.lstat(path)
                        yield StoredFile(key, found.st_size, now - found.st_mtime)

    def delete(self, keys: Sequence[str]) -> None:
        with self._told():
            for key in keys:
                path = os.path.join(self._directory, key)
                with suppress(FileNotFoundError):
                    os.unlink(path)
                while (path := os.path.dirname(path)) != self._directory:
                    try:
                        os.rmdir(path)
                    except OSError:
                        break

    def abandon(self, older_than: float) -> None:
        before = self._now() - older_than
        with self._told(), suppress(FileNotFoundError):
            for entry in os.scandir(os.path.join(self._directory, _PARTIAL)):
                if entry.stat(follow_symlinks=False).st_mtime < before:
                    os.unlink(entry.path)

    def _now(self) -> float:
        """By the clock of whoever keeps the directory, with which the times of its files are compared: this machine's
        may be wrong."""
        try:
            descriptor = os.open(os.path.join(self._directory, _LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                # A file server sets its own time.
                os.utime(descriptor)
                return os.fstat(descriptor).st_mtime
            finally:
                os.close(descriptor)
        except OSError:
            return time.time()

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        """A file of this process's user. Raises Unfaithful, FileNotFoundError."""
        try:
            descriptor = os.open(os.path.join(self._directory, key), _READ)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Unfaithful(f"{key} is a link, which is not followed") from None
            raise
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                raise Unfaithful(f"{key} belongs to another user, or others may write it")
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(os.path.join(self._directory, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _made(self, key: str) -> str:
        """The path of a file, with its directories."""
        path = os.path.join(self._directory, key)
        make_directories(os.path.dirname(path))
        return path

    def _partial(self, name: str) -> str:
        return self._made(f"{_PARTIAL}/{hashlib.sha256(name.encode()).hexdigest()}")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise BlobStoreUnavailable(
                f"the checkpoints in {self.uri} can't be used: {error.strerror}",
                hint="make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None,
            ) from None


def _walk(top: str) -> Iterator[str]:
    """The files below a directory, by name; none where there is no such directory. What can't be read is no emptiness:
    raises OSError."""
    try:
        entries = sorted(os.scandir(top), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        else:
            yield entry.path


@contextmanager
def _writing(path: str, flags: int) -> Iterator[IO[bytes]]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        yield file


def _write_all(descriptor: int, piece: bytes, place: int) -> None:
    view = memoryview(piece)
    while view:
        count = os.pwrite(descriptor, view, place)
        view, place = view[count:], place + count
