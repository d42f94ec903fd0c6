"""The documents of a run: JSON objects on this disk, written whole or not at all. Standard library only."""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any

from cumulus.lib.files import write_durably

_LARGEST = 64 * 2**20
"""Bytes of a document at most; the largest spec has a few MiB."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk: they pass, and the job is not to blame."""


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
