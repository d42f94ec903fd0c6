"""SPDY frames as a client sends them, and nonsense. kubectl itself is asked in `tests/e2e/test_exec.py`."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.server.http import spdy
from cumulus.server.http.spdy import Data, Opened, Ping, Reset, SpdyError, SpdySession


def control(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("!HHI", 0x8003, kind, flags << 24 | len(body)) + body


class Client:
    def __init__(self) -> None:
        self.deflate = zlib.compressobj(zdict=spdy.DICTIONARY)

    def open(self, stream: int, **headers: str) -> bytes:
        words = [word.encode() for pair in headers.items() for word in pair]
        text = struct.pack("!I", len(headers)) + b"".join(struct.pack("!I", len(word)) + word for word in words)
        packed = self.deflate.compress(text) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
        return control(1, struct.pack("!IIH", stream, 0, 0) + packed)


def sent() -> bytes:
    client = Client()
    return b"".join(
        [
            client.open(1, streamtype="error", port="80", requestid="0"),
            client.open(3, streamtype="data", port="80", requestid="0"),
            struct.pack("!II", 1, 1 << 24), struct.pack("!II", 3, 4) + b"data", control(6, b"\0\0\0\1"),
            control(4, b"settings"), control(3, struct.pack("!II", 3, 5)),
        ]
    )  # fmt: skip


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_what_a_client_sends(step: int) -> None:
    session, data = SpdySession(), sent()
    got = [event for at in range(0, len(data), step) for event in session.feed(data[at : at + step])]
    assert got == [
        Opened(1, {"streamtype": "error", "port": "80", "requestid": "0"}),
        Opened(3, {"streamtype": "data", "port": "80", "requestid": "0"}), Data(1, b"", True),
        Data(3, b"data", False), Ping(control(6, b"\0\0\0\1")), Reset(3),
    ]  # fmt: skip


def test_what_is_answered() -> None:
    session = SpdySession()
    reply = session.reply(3)
    assert zlib.decompressobj(zdict=spdy.DICTIONARY).decompress(reply[12:]) == b"\0\0\0\0"
    assert session.data(3, b"x", last=True) == struct.pack("!II", 3, 1 << 24 | 1) + b"x"


def test_headers_that_grow_without_end_are_refused() -> None:
    client = Client()
    with pytest.raises(SpdyError):
        list(SpdySession().feed(client.open(1, large="x" * 3_000_000)))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120), st.integers(0, 200))
def test_any_bytes(noise: bytes, at: int) -> None:
    data = sent()
    for given_bytes in (noise, data[:at] + noise + data[at:]):
        try:
            for _ in SpdySession().feed(given_bytes):
                pass
        except SpdyError:
            pass
