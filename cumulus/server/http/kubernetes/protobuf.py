"""Reads the few Protobuf bodies that kubectl sends: reviews, namespaces and secrets, which it sends as nothing else.

A `Message` says which fields there are, as data; what is read has the shape of the same object in JSON. Strict and
bounded: whatever is malformed is a `ProtobufError`, unknown fields are skipped, their number has a limit, and
nothing nests deeper than the messages that are asked for.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cumulus.errors import UsageError
from cumulus.lib.printable import one_line

PROTOBUF = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"
MAX_FIELDS = 4000
"""Of one body, in all its messages: what reading it costs at most. A secret of a thousand keys has fewer."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10


class ProtobufError(UsageError):
    """The bytes are not the message that they should be."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message. Bytes are read as base64, as JSON has them."""

    name: str
    type: Literal["string", "bytes", "bool"] | Message
    map: bool = False
    """Of a message with the fields `key` and `value`: an object with those keys."""

    @property
    def wire(self) -> int:
        return _VARINT if self.type == "bool" else _BYTES


@dataclass(frozen=True, slots=True)
class Message:
    """The fields of a message by their numbers."""

    fields: Mapping[int, Field]


@dataclass(frozen=True, slots=True)
class Body:
    """A whole object: what its apiVersion and kind must be."""

    api_version: str
    kind: str
    message: Message


_TYPE = Message({1: Field("apiVersion", "string"), 2: Field("kind", "string")})
_ENVELOPE = Message(
    {
        1: Field("typeMeta", _TYPE), 2: Field("raw", "bytes"), 3: Field("contentEncoding", "string"),
        4: Field("contentType", "string"),
    }
)  # fmt: skip


def read_object(wanted: Body, data: bytes) -> dict[str, Any]:
    """The object in a body, with its apiVersion and kind. Raises ProtobufError."""
    if not data.startswith(MAGIC):
        raise ProtobufError("the body does not begin as Kubernetes' Protobuf does")
    left = iter(range(MAX_FIELDS))
    envelope = _read(_ENVELOPE, data[len(MAGIC) :], left)
    if envelope.get("contentEncoding") or envelope.get("contentType", PROTOBUF) not in ("", PROTOBUF):
        raise ProtobufError("the object in the body is of an unknown encoding")
    given = envelope.get("typeMeta", {})
    for field, value in (("apiVersion", wanted.api_version), ("kind", wanted.kind)):
        if given.get(field, value) != value:
            raise ProtobufError(f"the {field} in the body, {one_line(given[field])}, is not {value}")
    found = _read(wanted.message, base64.b64decode(envelope.get("raw", "")), left)
    return {"apiVersion": wanted.api_version, "kind": wanted.kind, **found}


def _read(message: Message, data: bytes, left: Iterator[int]) -> dict[str, Any]:
    """`left`: gives something for each further field that there may be."""
    found: dict[str, Any] = {}
    for number, wire, value in _fields(data):
        if next(left, None) is None:
            raise ProtobufError(f"the body has more than {MAX_FIELDS} fields")
        field = message.fields.get(number)
        if field is None:
            continue
        if wire != field.wire:
            raise ProtobufError(f"the field {field.name} is of the wrong type")
        read = _value(field, value, left)
        if field.map:
            found.setdefault(field.name, {})[read.get("key", "")] = read.get("value", "")
        elif field.name in found:
            raise ProtobufError(f"the field {field.name} is there twice")
        else:
            found[field.name] = read
    return found


def _value(field: Field, value: int | bytes, left: Iterator[int]) -> Any:
    if isinstance(value, int):
        return value != 0
    if isinstance(field.type, Message):
        return _read(field.type, value, left)
    if field.type == "bytes":
        return base64.b64encode(value).decode()
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ProtobufError(f"the field {field.name} is not UTF-8 text") from None


def _fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """(number, wire type, value) of each field: a number of varints, else the bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise ProtobufError(f"there is no field with the number {number}")
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise ProtobufError(f"there is no type {wire} of field")
        if size > len(data) - at:
            raise ProtobufError("the body is cut off")
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place after it."""
    value = 0
    for index, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, at + index + 1
    raise ProtobufError("a number is cut off, or too large")
