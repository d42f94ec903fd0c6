"""The documents of a run: JSON objects on this disk, written whole or not at all. Standard library only."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any

_LARGEST = 64 * 2**20
"""Bytes of a document at most; the largest spec has a few MiB."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk: they pass, and the job is not to blame."""


def write_durably(path: str, content: bytes, mode: int = 0o600) -> None:
    """Put `content` at `path`, whole or not at all, also through a power cut. Raises OSError."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path) or ".")


def write_document(path: str, document: dict[str, Any]) -> None:
    """`write_durably` of a JSON object."""
    write_durably(path, json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")


def read_document(path: str) -> dict[str, Any] | None:
    """The JSON object at `path`, None where there is no file. Raises ValueError where it is no JSON object.

    A job can put there what it likes: a pipe that nobody writes to or a link to /dev/zero is no file."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            content = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(content) > _LARGEST:
        raise ValueError(f"{path} is larger than {_LARGEST} bytes")
    document = json.loads(content.decode("utf-8", "surrogateescape"))
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds no JSON object")
    return document


def sync_directory(path: str) -> None:
    """Make names created or renamed in the directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
