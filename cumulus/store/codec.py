"""Documents as bytes: one canonical form (sorted keys), so that equal objects are equal bytes, and its checksum."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import orjson

from cumulus.errors import InvalidObject, StoreUnavailable
from cumulus.resources.key import Document, Key
from cumulus.store.base import WatchEvent

MAX_BYTES = 1_572_864
"""Largest stored object: etcd's default request limit, so that every object fits there too."""

MAX_GIVEN = 1_048_576
"""Largest object without its status: the rest of `MAX_BYTES` is the controllers', so that a status always has room."""

ADDED, MODIFIED, DELETED = 1, 2, 3
_EVENT_TYPES = {ADDED: "ADDED", MODIFIED: "MODIFIED", DELETED: "DELETED"}


class LogRow(NamedTuple):
    """One revision in the log. `previous` is the revision this one replaced, 0 for a new object."""

    revision: int
    type: int
    previous: int
    key: Key
    document: bytes


def encode(document: Document, key: Key) -> bytes:
    """The canonical JSON. Raises InvalidObject for what JSON cannot say, and for an object too large to store."""
    blob = canonical(document, key)
    if len(blob) > MAX_BYTES:
        raise InvalidObject(
            f"{key} has {len(blob)} bytes of JSON, more than the {MAX_BYTES} an object may have",
            hint="keep large data in a file or bucket and refer to it",
        )
    return blob


def check_room(document: Document, key: Key) -> None:
    """Raises InvalidObject where what was given of an object leaves no room for its status."""
    size = _size_given(document, key)
    if size > MAX_GIVEN:
        raise InvalidObject(
            f"{key} has {size} bytes of JSON without its status, more than the {MAX_GIVEN} that may be given",
            hint="keep large data in a file or bucket and refer to it; what `apply` notes of a manifest counts too",
        )


def has_room(document: Document, key: Key) -> bool:
    """Whether `check_room` would pass it."""
    return _size_given(document, key) <= MAX_GIVEN


def _size_given(document: Document, key: Key) -> int:
    return len(canonical({name: value for name, value in document.items() if name != "status"}, key))


def canonical(value: Any, key: Key) -> bytes:
    """Canonical JSON of any part of an object. Raises InvalidObject."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise InvalidObject(f"{key} cannot be written as JSON: {error}") from error


def decode(blob: bytes) -> Document:
    """The inverse of `encode`. Raises StoreUnavailable where the bytes are damaged."""
    try:
        document: Document = orjson.loads(blob)
    except orjson.JSONDecodeError as error:
        raise damaged(f"a stored object is not JSON ({error})") from error
    return document


def checksum(revision: int, type: int, previous: int, blob: bytes) -> int:
    """CRC-32 of a row: SQLite checks its write-ahead log's frames but not the pages of the main file."""
    return zlib.crc32(blob, zlib.crc32(f"{revision} {type} {previous}".encode()))


def damaged(what: str) -> StoreUnavailable:
    return StoreUnavailable(f"the store is damaged: {what}", hint="restore the last backup with `cumulus restore FILE`")


def event(row: LogRow) -> WatchEvent:
    return WatchEvent(_EVENT_TYPES[row.type], row.revision, decode(row.document))  # type: ignore[arg-type]
