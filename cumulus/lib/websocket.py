"""WebSocket frames (RFC 6455), for both sides: bytes in, messages out, and back. Standard library only; does no I/O."""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL, PROTOCOL_ERROR, TOO_LARGE = 1000, 1002, 1009
VERSION = "13"
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LONGEST_CONTROL = 125


class WebSocketError(Exception):
    """The other side broke the protocol; `code` is what it is told as the reason for the end."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class SocketMessage(NamedTuple):
    """A whole message (TEXT, BINARY), or a control frame."""

    kind: int
    data: bytes


def new_key() -> str:
    """For the header Sec-WebSocket-Key."""
    return base64.b64encode(os.urandom(16)).decode()


def accepted(key: str) -> str:
    """The answer to a key."""
    return base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode()).digest()).decode()


def is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except ValueError:
        return False


def frame(kind: int, data: bytes, *, mask: bool = False) -> bytes:
    """One message in one frame. Clients mask theirs."""
    bit = 0x80 if mask else 0
    if len(data) < 126:
        head = struct.pack("!BB", 0x80 | kind, bit | len(data))
    elif len(data) < 2**16:
        head = struct.pack("!BBH", 0x80 | kind, bit | 126, len(data))
    else:
        head = struct.pack("!BBQ", 0x80 | kind, bit | 127, len(data))
    if not mask:
        return head + data
    key = os.urandom(4)
    return head + key + _masked(data, key)


def closing(code: int, reason: str = "") -> bytes:
    """What a close frame holds."""
    return struct.pack("!H", code) + reason.encode()[: _LONGEST_CONTROL - 2]


class Messages:
    """Takes bytes as they come. `masked`: whether the other side masks its frames, as clients do. `largest`: bytes that
    a message may have."""

    def __init__(self, *, masked: bool, largest: int) -> None:
        self._masked = masked
        self._largest = largest
        self._buffer = bytearray()
        self._parts = bytearray()
        self._kind = 0
        """Of the message whose frames are coming; 0 between messages."""

    def feed(self, data: bytes) -> Iterator[SocketMessage]:
        """The messages that are whole with these bytes. Raises WebSocketError."""
        self._buffer += data
        while (found := self._frame()) is not None:
            final, kind, payload = found
            if kind >= CLOSE:
                yield SocketMessage(kind, payload)
                continue
            if (kind == CONTINUATION) != bool(self._kind):
                raise WebSocketError(PROTOCOL_ERROR, "a message begins within another, or goes on before it began")
            self._kind = self._kind or kind
            self._parts += payload
            if len(self._parts) > self._largest:
                raise WebSocketError(TOO_LARGE, f"a message has more than {self._largest} bytes")
            if final:
                kind, whole = self._kind, bytes(self._parts)
                self._kind = 0
                self._parts.clear()
                yield SocketMessage(kind, whole)

    def _frame(self) -> tuple[bool, int, bytes] | None:
        """The next frame, once it is whole."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        final, kind, size = bool(buffer[0] & 0x80), buffer[0] & 0x0F, buffer[1] & 0x7F
        masked = bool(buffer[1] & 0x80)
        if buffer[0] & 0x70 or kind not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise WebSocketError(PROTOCOL_ERROR, "a frame is of a kind that there is not")
        if masked != self._masked:
            raise WebSocketError(PROTOCOL_ERROR, "a frame is masked where none is, or the other way round")
        if kind >= CLOSE and (size > _LONGEST_CONTROL or not final):
            raise WebSocketError(PROTOCOL_ERROR, "a control frame is too long, or in parts")
        begin = 2
        if size >= 126:
            form = "!H" if size == 126 else "!Q"
            begin += struct.calcsize(form)
            if len(buffer) < begin:
                return None
            (size,) = struct.unpack_from(form, buffer, 2)
        if size > self._largest:
            raise WebSocketError(TOO_LARGE, f"a frame has more than {self._largest} bytes")
        key = bytes(buffer[begin : begin + 4]) if masked else b""
        begin += 4 if masked else 0
        if len(buffer) < begin + size:
            return None
        payload = bytes(buffer[begin : begin + size])
        del buffer[: begin + size]
        return final, kind, _masked(payload, key) if masked else payload


def _masked(data: bytes, key: bytes) -> bytes:
    """Exclusive or with the key, again and again: as one large number, which is fast."""
    if not data:
        return data
    keys = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(len(data), "little")
