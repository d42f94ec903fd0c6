"""WebSocket frames: what one side writes the other reads, however it is cut; nonsense is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cumulus.lib import websocket
from cumulus.lib.websocket import Messages, SocketMessage, WebSocketError

MESSAGES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([websocket.TEXT, websocket.BINARY]), st.binary(max_size=300)),
        st.tuples(st.sampled_from([websocket.PING, websocket.PONG]), st.binary(max_size=125)),
    ),
    max_size=5,
)


@settings(max_examples=50, deadline=None)
@given(MESSAGES, st.booleans(), st.integers(1, 40))
def test_what_is_written_is_read_however_it_is_cut(sent: list[tuple[int, bytes]], mask: bool, step: int) -> None:
    data = b"".join(websocket.frame(kind, content, mask=mask) for kind, content in sent)
    reader = Messages(masked=mask, largest=1000)
    got = [message for at in range(0, len(data), step) for message in reader.feed(data[at : at + step])]
    assert got == [SocketMessage(*each) for each in sent]


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 100_000])
def test_sizes(size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    data = websocket.frame(websocket.BINARY, content[:size], mask=True)
    assert [*Messages(masked=True, largest=2**20).feed(data)] == [SocketMessage(websocket.BINARY, content[:size])]


def test_a_message_in_parts_with_a_ping_between_them() -> None:
    parts = [bytes([0x01, 2]) + b"he", websocket.frame(websocket.PING, b"?"), bytes([0x80, 3]) + b"llo"]
    assert [*Messages(masked=False, largest=9).feed(b"".join(parts))] == [
        SocketMessage(websocket.PING, b"?"), SocketMessage(websocket.TEXT, b"hello"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bytes([0x82, 1, 0]), websocket.PROTOCOL_ERROR),  # not masked
        (bytes([0xC2, 0x80, 0, 0, 0, 0]), websocket.PROTOCOL_ERROR),  # a bit of an extension
        (bytes([0x83, 0x80, 0, 0, 0, 0]), websocket.PROTOCOL_ERROR),  # no such kind
        (bytes([0x80, 0x80, 0, 0, 0, 0]), websocket.PROTOCOL_ERROR),  # goes on with nothing
        (bytes([0x09, 0x80, 0, 0, 0, 0]), websocket.PROTOCOL_ERROR),  # a ping in parts
        (bytes([0x89, 0xFE, 0, 200]), websocket.PROTOCOL_ERROR),  # a long ping
        (bytes([0x82, 0xFF]) + (2**40).to_bytes(8, "big"), websocket.TOO_LARGE),
        (websocket.frame(websocket.BINARY, b"x" * 101, mask=True), websocket.TOO_LARGE),
    ],
    # A mask is drawn by lot, and each process that runs tests must name them alike.
    ids=("unmasked", "extension", "kind", "goes on", "ping in parts", "long ping", "2**40", "too large"),
)
def test_what_is_refused(data: bytes, code: int) -> None:
    with pytest.raises(WebSocketError) as raised:
        list(Messages(masked=True, largest=100).feed(data))
    assert raised.value.code == code


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    reader = Messages(masked=True, largest=100)
    try:
        for message in reader.feed(data):
            assert len(message.data) <= 125
    except WebSocketError:
        pass


def test_the_key_of_the_standard() -> None:
    assert websocket.accepted("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert websocket.is_key(websocket.new_key())
    assert not websocket.is_key("short")
