"""Blobs as files: DIRECTORY/OWNER/aa/SHA256, where OWNER is a hash of the owner's text and aa begins the sha256.

An upload writes `SHA256.SIZE.partial`, which holds a lock on that file while it runs and renames it when the content is
whole, checked and synced. `OWNER/lock` is held for moments, where a blob's use or deletion is decided.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import structlog

from cumulus.blob.base import (
    CHUNK,
    BlobInfo,
    BlobLimits,
    Collected,
    UploadUrls,
    check_digest,
    check_length,
    check_limit,
    check_offset,
    check_sha256,
    check_size,
    owner_directory,
)
from cumulus.errors import (
    BlobBusy,
    BlobDamaged,
    BlobMismatch,
    BlobOffset,
    BlobStoreFull,
    BlobStoreUnavailable,
    NoSuchBlob,
)
from cumulus.lib import locks
from cumulus.lib.files import make_directories, sync_directory
from cumulus.resources.quantity import format_bytes

_log = structlog.get_logger("cumulus.blobs")

RESERVE = 2**30
RESERVE_PART = 20
"""So many bytes of the disk, or this part of a small one, are left to others: the store of objects may be on it."""
LOOK_EVERY = 64 * 2**20
"""Bytes of an upload between two looks at the room that is left."""
WRITE_EVERY = 8 * 2**20
_PARTIAL = re.compile(r"([0-9a-f]{64})\.([0-9]+)\.partial")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class DirectoryBlobStore:
    """Made with its directory, mode 0700, at the first write. Several processes may share one."""

    def __init__(self, directory: Path, limits: BlobLimits = BlobLimits()) -> None:
        self._directory = directory
        self._limits = limits

    def find(self, owner: str, sha256: str) -> BlobInfo | None:
        place = self._place(owner, sha256)
        with _told(self._directory):
            try:
                with _owner_lock(place.parent, fcntl.LOCK_SH):
                    return _used(place) or _begun(place)
            except FileNotFoundError:
                return None

    def write(self, owner: str, sha256: str, size: int, chunks: Iterable[bytes], offset: int = 0) -> BlobInfo:
        place = self._place(owner, sha256)
        check_size(self._limits, size, offset)
        with _told(self._directory):
            make_directories(place.parent)
            with _owner_lock(place.parent):
                there = _used(place)
                if there is not None:
                    return there
                partial, descriptor = self._partial(place, size, offset)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            return self._receive(file.fileno(), partial, place, BlobInfo(size, offset), chunks)

    def open(self, owner: str, sha256: str, offset: int = 0) -> Iterator[bytes]:
        place = self._place(owner, sha256)
        check_offset(offset)
        try:
            with _told(self._directory):
                descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise NoSuchBlob(f"there is no blob {sha256}") from None
        return self._read(descriptor, place, offset)

    def path(self, owner: str, sha256: str) -> Path | None:
        place = self._place(owner, sha256)
        return place if place.is_file() else None

    def upload_urls(self, owner: str, sha256: str, size: int) -> UploadUrls | None:
        return None

    def download_url(self, owner: str, sha256: str) -> str | None:
        return None

    def delete(self, owner: str, sha256: str) -> bool:
        place = self._place(owner, sha256)
        with _told(self._directory):
            try:
                with _owner_lock(place.parent):
                    partials = [_drop(path) for path, _ in _partials(place)]
                    if place.exists():
                        place.unlink()
                        partials.append(0)
                    return bool(partials)
            except FileNotFoundError:
                return False

    def collect(self, referenced: Collection[tuple[str, str]], older_than: datetime) -> Collected:
        kept = {(owner_directory(owner), sha256) for owner, sha256 in referenced}
        before = older_than.timestamp()
        deleted: list[int] = []
        with _told(self._directory):
            for path in _files(self._directory):
                partial = _PARTIAL.fullmatch(path.name)
                if partial is None and (path.parent.parent.name, path.name) in kept:
                    continue
                with suppress(FileNotFoundError, BlobBusy), _owner_lock(path.parent):
                    found = path.stat()
                    if found.st_mtime < before:
                        if partial is None:
                            path.unlink()
                        else:
                            _drop(path)
                        deleted.append(found.st_size)
        return Collected(len(deleted), sum(deleted))

    def _place(self, owner: str, sha256: str) -> Path:
        check_sha256(sha256)
        return self._directory / owner_directory(owner) / sha256[:2] / sha256

    def _partial(self, place: Path, size: int, offset: int) -> tuple[Path, int]:
        """The file of the upload and its descriptor, locked, with `offset` bytes in it. The owner's lock is held."""
        for path, declared in _partials(place):
            descriptor = _locked(path)
            received = _received(os.fstat(descriptor).st_size, declared)
            if declared == size and offset in (0, received):
                os.ftruncate(descriptor, offset)
                return path, descriptor
            os.close(descriptor)
            if declared == size:
                raise BlobOffset(
                    f"{received} bytes of the blob {place.name} are there, so its content goes on from there",
                    received=received,
                )
            path.unlink()
        if offset:
            raise BlobOffset(f"nothing of the blob {place.name} is there: its content begins at 0", received=0)
        used = sum(_size(path) for path in _files_of(place.parent.parent))
        check_limit(self._limits, used, size)
        self._check_room(size)
        path = place.with_name(f"{place.name}.{size}.partial")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        locks.try_lock(descriptor)
        return path, descriptor

    def _check_room(self, size: int) -> None:
        disk = os.statvfs(self._directory)
        free = disk.f_bavail * disk.f_frsize
        reserve = min(RESERVE, disk.f_blocks * disk.f_frsize // RESERVE_PART)
        if free - reserve < size:
            raise self._full(size, max(0, free - reserve))

    def _full(self, size: int, free: int) -> BlobStoreFull:
        return BlobStoreFull(
            f"the disk of the blobs has no room for {format_bytes(size)}: {format_bytes(free)} are free",
            hint="an admin makes room there, or sets blobs.directory to another disk",
        )

    def _receive(self, fd: int, partial: Path, place: Path, begun: BlobInfo, chunks: Iterable[bytes]) -> BlobInfo:
        """Write the chunks; the file's lock is held."""
        digest, received = hashlib.sha256(), begun.received
        try:
            for start in range(0, received, CHUNK):
                digest.update(os.pread(fd, min(CHUNK, received - start), start))
            os.lseek(fd, received, os.SEEK_SET)
            looked = written = received
            for chunk in chunks:
                check_length(received + len(chunk), begun.size)
                digest.update(chunk)
                with _told(self._directory):
                    _write_all(fd, chunk)
                received += len(chunk)
                if received - written >= WRITE_EVERY:
                    # The kernel begins to write now, so that there is little to wait for at the end.
                    os.posix_fadvise(fd, written, received - written, os.POSIX_FADV_DONTNEED)
                    written = received
                if received - looked >= LOOK_EVERY:
                    looked = received
                    self._check_room(begun.size - received)
            with _told(self._directory):
                os.fsync(fd)
            if received < begun.size:
                return BlobInfo(begun.size, received)
            check_digest(digest.hexdigest(), place.name)
            with _told(self._directory):
                partial.rename(place)
                sync_directory(place.parent)
        except (BlobMismatch, BlobStoreFull):
            # The room goes back at once, also where the name can't be deleted.
            os.ftruncate(fd, 0)
            partial.unlink(missing_ok=True)
            raise
        return BlobInfo(begun.size, received)

    def _read(self, descriptor: int, place: Path, offset: int) -> Iterator[bytes]:
        digest = hashlib.sha256()
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            # A place that no file can have is no error of the disk.
            file.seek(min(offset, os.fstat(descriptor).st_size))
            while chunk := file.read(CHUNK):
                if not offset:
                    digest.update(chunk)
                yield chunk
            if offset or digest.hexdigest() == place.name:
                return
            with suppress(FileNotFoundError), _owner_lock(place.parent):
                if _is(place, file.fileno()):
                    place.unlink()
        _log.error("a blob was damaged on the disk, and is deleted", path=str(place))
        raise BlobDamaged(
            f"the blob {place.name} was damaged on the daemon's disk, and is deleted there",
            hint="send it again; an admin looks at that disk",
        )


@contextmanager
def _owner_lock(directory: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold the lock of the owner whose blobs are in the directory. Raises FileNotFoundError where there are none."""
    descriptor = os.open(directory.parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise BlobStoreFull(
                f"the disk of the blobs is full ({error.strerror})",
                hint="an admin makes room there, or sets blobs.directory to another disk",
            ) from None
        raise BlobStoreUnavailable(f"the blobs in {directory} can't be used: {error.strerror}") from None


def _used(place: Path) -> BlobInfo | None:
    """The whole blob, whose last use is now."""
    try:
        os.utime(place)
        size = place.stat().st_size
    except FileNotFoundError:
        return None
    return BlobInfo(size, size)


def _begun(place: Path) -> BlobInfo | None:
    for path, size in _partials(place):
        with suppress(FileNotFoundError):
            if size:  # Of an empty one there is nothing.
                return BlobInfo(size, _received(path.stat().st_size, size))
    return None


def _received(length: int, size: int) -> int:
    """Of an upload that broke off: at least a byte is to come, since its end is when the content is checked."""
    return max(0, min(length, size - 1))


def _partials(place: Path) -> list[tuple[Path, int]]:
    """Uploads of the blob, each with its size when whole."""
    matches = (_PARTIAL.fullmatch(name) for name in os.listdir(place.parent))
    return [(place.with_name(m[0]), int(m[2])) for m in matches if m is not None and m[1] == place.name]


def _locked(path: Path) -> int:
    """The open file of a partial upload, which no one else writes. Raises BlobBusy, FileNotFoundError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    # One that has just ended let its lock go after it renamed the file.
    if not locks.try_lock(descriptor) or not _is(path, descriptor):
        os.close(descriptor)
        raise BlobBusy(f"the blob {path.name[:64]} is being uploaded", hint="wait until that ends, and ask again")
    return descriptor


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _drop(partial: Path) -> int:
    """Delete an upload that broke off; its size. Raises BlobBusy for one that runs."""
    descriptor = _locked(partial)
    try:
        partial.unlink()
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _files(directory: Path) -> Iterator[Path]:
    """Every blob and partial upload of every owner."""
    for owner in _names(directory):
        yield from _files_of(directory / owner)


def _files_of(owner: Path) -> Iterator[Path]:
    for prefix in _names(owner):
        if len(prefix) == 2:
            for name in _names(owner / prefix):
                yield owner / prefix / name


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(path: Path) -> int:
    """What it takes, or will when it is whole."""
    partial = _PARTIAL.fullmatch(path.name)
    try:
        return int(partial[2]) if partial else path.stat().st_size
    except FileNotFoundError:
        return 0


def _write_all(fd: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(fd, view) :]
