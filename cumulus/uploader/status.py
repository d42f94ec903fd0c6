"""PATH/.uploader/status.json: how far the uploader of an L1 directory is. Standard library only."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from cumulus.lib.files import replacing

DIRECTORY = ".uploader"
FILE = "status.json"
_MOST = 64 * 2**10


@dataclass(frozen=True, slots=True)
class UploadStatus:
    uri: str = ""
    step: int | None = None
    """Of the newest checkpoint that is committed there; None where there is none yet."""
    token: int = 0
    size: int = 0
    """Of its files, in bytes."""
    uploaded_at: str = ""
    """When it was committed (RFC 3339, UTC)."""
    uploading: int | None = None
    """The step that is being copied now."""
    sent: int = 0
    """Bytes of that which are sent."""
    error: str = ""
    """Why it does not get on, in one sentence; "" where it does."""
    error_at: str = ""
    """Since when."""


def write(path: str, status: UploadStatus) -> None:
    """Replace the status of the L1 directory. It is not worth a sync. Raises OSError."""
    directory = os.path.join(path, DIRECTORY)
    with replacing(os.path.join(directory, FILE), durable=False) as file:
        file.write(json.dumps({"format": 1, **asdict(status)}).encode() + b"\n")


def read(path: str) -> UploadStatus | None:
    """None where there is none, or it is damaged: the job can write it. Ask as the job's user: who follows no link of
    theirs otherwise. Raises OSError where the directory can't be read."""
    try:
        descriptor = os.open(
            os.path.join(path, DIRECTORY, FILE), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        )
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return decode(file.read(_MOST))


def decode(content: bytes) -> UploadStatus | None:
    """None where it is damaged."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        given = json.loads(content)
        if given.pop("format") == 1:
            return _checked(UploadStatus(**given))
    return None


def _checked(status: UploadStatus) -> UploadStatus:
    for value, kinds in (
        *((text, str) for text in (status.uri, status.uploaded_at, status.error, status.error_at)),
        *((number, int) for number in (status.token, status.size, status.sent)),
        *((number, (int, type(None))) for number in (status.step, status.uploading)),
    ):
        kind: Any = kinds
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 0):
            raise ValueError
    return status
