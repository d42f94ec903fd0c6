"""As much of SPDY/3.1 as kubectl's port-forward needs, on the server's side: streams that a client opens. Does no I/O.

kubectl sends it within a WebSocket. Nothing here compresses data, gives priorities or counts windows: neither does
kubectl.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_CONTROL, _VERSION = 0x80000000, 3
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING, _HEADERS = 1, 2, 3, 6, 8
_FIN = 1
LARGEST = 2**20
"""Bytes of a frame, and of the headers in one."""

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_REST = (
    "1001012012022052063003023033043053063074024054064074084094104114124134144154164175025045052"
    "03 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug "
    "Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch"
    "charset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _word(text: str) -> bytes:
    return struct.pack("!I", len(text)) + text.encode()


DICTIONARY = b"".join(_word(word.replace("_", " ")) for word in _WORDS.split()) + _REST.encode()
"""What both sides begin to compress headers with, as the protocol says."""


class SpdyError(Exception):
    """The other side broke the protocol."""


class Opened(NamedTuple):
    stream: int
    headers: Mapping[str, str]


class Data(NamedTuple):
    """`last`: the client sends no more in that stream."""

    stream: int
    content: bytes
    last: bool


class Reset(NamedTuple):
    stream: int


class Ping(NamedTuple):
    """To be answered as it is."""

    frame: bytes


class SpdySession:
    """One connection: the headers of all its streams are compressed as one text."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Opened | Data | Reset | Ping]:
        """What is whole with these bytes. Raises SpdyError."""
        self._buffer += data
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from("!II", self._buffer)
            flags, size = second >> 24, second & 0xFFFFFF
            if size > LARGEST:
                raise SpdyError("a frame is too long")
            if len(self._buffer) < 8 + size:
                return
            frame = bytes(self._buffer[: 8 + size])
            del self._buffer[: 8 + size]
            if not first & _CONTROL:
                yield Data(first, frame[8:], bool(flags & _FIN))
            elif first >> 16 & 0x7FFF != _VERSION:
                raise SpdyError("it is no SPDY/3")
            else:
                yield from self._control(first & 0xFFFF, flags, frame)

    def reply(self, stream: int) -> bytes:
        """That the stream is taken."""
        headers = self._deflate.compress(struct.pack("!I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _frame(_SYN_REPLY, struct.pack("!I", stream) + headers)

    def reset(self, stream: int) -> bytes:
        """That it is not."""
        return _frame(_RST_STREAM, struct.pack("!II", stream, 3))

    def data(self, stream: int, content: bytes, *, last: bool = False) -> bytes:
        return struct.pack("!II", stream, (_FIN << 24 if last else 0) | len(content)) + content

    def _control(self, kind: int, flags: int, frame: bytes) -> Iterator[Opened | Data | Reset | Ping]:
        body = frame[8:]
        if kind == _PING:
            yield Ping(frame)
            return
        least = {_SYN_STREAM: 10, _RST_STREAM: 8, _HEADERS: 4}.get(kind)
        if least is None:
            return
        if len(body) < least:
            raise SpdyError("a frame is too short")
        stream = struct.unpack_from("!I", body)[0] & 0x7FFFFFFF
        if kind == _RST_STREAM:
            yield Reset(stream)
            return
        headers = self._headers(body[least:])
        if kind == _SYN_STREAM:
            yield Opened(stream, headers)
            if flags & _FIN:
                yield Data(stream, b"", True)

    def _headers(self, data: bytes) -> Mapping[str, str]:
        try:
            text = self._inflate.decompress(data, LARGEST)
        except zlib.error:
            raise SpdyError("headers are not compressed as they should be") from None
        if self._inflate.unconsumed_tail:
            raise SpdyError("headers are too long")
        try:
            (count,), at, words = struct.unpack_from("!I", text), 4, []
            for _ in range(2 * count):
                (size,) = struct.unpack_from("!I", text, at)
                if size > len(text) - at - 4:
                    raise SpdyError("headers are cut off")
                words.append(text[at + 4 : at + 4 + size].decode("latin-1"))
                at += 4 + size
        except struct.error:
            raise SpdyError("headers are cut off") from None
        return dict(zip(words[::2], words[1::2], strict=True))


def _frame(kind: int, body: bytes) -> bytes:
    return struct.pack("!HHI", 0x8000 | _VERSION, kind, len(body)) + body
