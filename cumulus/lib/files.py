"""Files that survive a power cut. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


def write_durably(path: str, content: bytes, mode: int = 0o600) -> None:
    """Put `content` at `path`, whole or not at all, also through a power cut. Raises OSError."""
    with replacing(path, mode) as file:
        file.write(content)


@contextmanager
def replacing(path: str, mode: int = 0o600, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends, and is gone where it raises. Raises OSError.

    One that is not `durable` may be lost or empty after a power cut.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}.tmp")
    try:
        with open(new_file(temporary, mode), "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
    if durable:
        sync_directory(directory or ".")


def write_once(path: str, content: bytes, mode: int = 0o600) -> None:
    """Put `content` at `path` where nothing is, whole or not at all. What another process put there first stays. Raises
    OSError."""
    with suppress(FileExistsError), creating(path, mode) as file:
        file.write(content)


@contextmanager
def creating(path: str, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A new file that is at `path` when the block ends, whole, and nowhere where it raises. Raises OSError;
    FileExistsError where something is at `path` by then."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with open(new_file(temporary, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def new_file(path: str, mode: int) -> int:
    """The descriptor of a file that this process has made, to be written: not one that another user put there to read
    what is written. Raises OSError."""
    # Windows has the one, and the others the other.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags, mode)
    except FileExistsError:
        # What a process of the same id left behind, else.
        os.unlink(path)
        return os.open(path, flags, mode)


def make_directories(path: str | os.PathLike[str], mode: int = 0o700) -> None:
    """Make the directory and those above it that are missing, durable. Raises OSError."""
    path = os.fspath(path)
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_directories(parent, mode)
    with suppress(FileExistsError):
        os.mkdir(path, mode)
    # Also where another process was faster: it may not have come to that yet.
    sync_directory(parent)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make names durable that were created, renamed or deleted in the directory. Raises OSError."""
    if os.name != "nt":  # There a directory can't be opened.
        _sync(path, os.O_DIRECTORY)


def sync_file(path: str | os.PathLike[str]) -> None:
    """Make durable what others wrote into the file. Raises OSError."""
    _sync(path, 0)


def _sync(path: str | os.PathLike[str], flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
