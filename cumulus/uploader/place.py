"""A place beyond the node, as the uploader needs it, and how it is laid out.

URI/steps/000000000042-7/…files…        step 42, saved with the fencing token 7
URI/steps/000000000042-7/manifest.json  the manifest as it was on the node; that it is there is the commit
URI/latest                              the newest commit; it moves by compare-and-set and never to an older token
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from cumulus.checkpoint.layout import MANIFEST, File
from cumulus.errors import BlobError, UsageError
from cumulus.uploader.config import Config

LATEST = "latest"
STEPS = "steps/"
_NAME = re.compile(r"([0-9]{12})-([0-9]{1,19})")


class Unfaithful(BlobError):
    """A file is not what its manifest says: it changed, or was damaged."""


class CheckpointName(NamedTuple):
    """What a checkpoint is called in a place. The newer of two is the greater one."""

    token: int
    step: int

    @property
    def prefix(self) -> str:
        return f"{STEPS}{self.step:012}-{self.token}/"

    @property
    def manifest(self) -> str:
        return self.prefix + MANIFEST

    @classmethod
    def of(cls, key: str) -> CheckpointName | None:
        """Of the checkpoint to which the object or file belongs."""
        parts = key.split("/")
        match = _NAME.fullmatch(parts[1]) if len(parts) > 2 and parts[0] == STEPS[:-1] else None
        return None if match is None else cls(int(match[2]), int(match[1]))


class StoredFile(NamedTuple):
    key: str
    size: int
    age: float
    """Seconds since it was written."""


class Notes(Protocol):
    """What is remembered of files that are being sent, over the death of the process too."""

    def get(self, key: str) -> str: ...
    def set(self, key: str, note: str) -> None: ...


class Place(Protocol):
    """Every method raises BlobStoreUnavailable where the place can't be used: BucketUnavailable and OSError where that
    may pass by itself."""

    @property
    def uri(self) -> str: ...

    def renew(self, config: Config) -> None:
        """Go on with the keys of this configuration, where it needs any."""
        ...

    def read(self, key: str) -> tuple[bytes, str] | None:
        """A small file and its version; None where there is none."""
        ...

    def put(self, key: str, content: bytes, version: str = "") -> None:
        """Write a small file: a new one, or over that very version. Raises ObjectChanged where another is there."""
        ...

    def has(self, key: str, file: File) -> bool:
        """Whether that very content is there."""
        ...

    def send(self, key: str, file: File, descriptor: int, notes: Notes, sent: Callable[[int], None]) -> None:
        """Write an open file, as a whole or not at all; parts that are there from an earlier try are not sent again.
        `sent` is told of bytes that were. Raises Unfaithful where it is not what `file` says."""
        ...

    def fetch(self, key: str, file: File, descriptor: int) -> None:
        """Write what is there into an open, empty file. Raises Unfaithful where it is not what `file` says."""
        ...

    def list(self, prefix: str) -> Iterator[StoredFile]: ...

    def delete(self, keys: Sequence[str]) -> None:
        """Those that are gone are no error."""
        ...

    def abandon(self, older_than: float) -> None:
        """Delete what was sent of files that were never whole, where it began more than so many seconds ago."""
        ...


def parse(uri: str) -> tuple[str, str, str]:
    """Scheme, host and path of `s3://BUCKET/PREFIX` or `file:///DIRECTORY`. Raises UsageError."""
    parts = urlsplit(uri)
    path = unquote(parts.path) if parts.scheme == "file" else parts.path
    names = path.strip("/").split("/")
    if parts.scheme == "s3" and parts.netloc and path.strip("/") and not {"", ".", ".."} & {*names}:
        return "s3", parts.netloc, path.strip("/")
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and path.startswith("/") and ".." not in names:
        return "file", "", path.rstrip("/")
    raise UsageError(
        f"{uri!r} is no place for checkpoints", hint="s3://BUCKET/PREFIX, or file:///DIRECTORY that the nodes share"
    )
