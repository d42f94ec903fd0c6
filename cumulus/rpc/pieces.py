"""Pieces of an upload, written and read without the copies that a message object takes.

A PutBlobRequest with data alone is its field's key, the length, and the bytes. Protobuf copies a megabyte twice to
write that and twice to read it, and a blob has many of them.
"""

from __future__ import annotations

_DATA = b"\x12"
"""Key of PutBlobRequest's `bytes data = 2`."""
_LONGEST = 5
"""Bytes of a length that protobuf takes: no message has 2 GiB."""


def written(data: bytes | memoryview) -> bytes:
    """The message with `data`, as protobuf serializes it."""
    left, length = len(data), bytearray()
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    length.append(left)
    return b"".join((_DATA, length, data))


def read(message: bytes) -> bytes | None:
    """What `written` was given; None for another message, or none, which protobuf is to look at."""
    if message[:1] != _DATA:
        return None
    length = 0
    for at, byte in enumerate(message[1 : 1 + _LONGEST]):
        length |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            data = message[2 + at :]
            return data if len(data) == length else None
    return None
