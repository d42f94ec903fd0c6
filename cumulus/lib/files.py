"""Files that survive a power cut. Standard library only."""

from __future__ import annotations

import os


def write_durably(path: str, content: bytes, mode: int = 0o600) -> None:
    """Put `content` at `path`, whole or not at all, also through a power cut. Raises OSError."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise
    sync_directory(directory or ".")


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make names durable that were created, renamed or deleted in the directory. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
