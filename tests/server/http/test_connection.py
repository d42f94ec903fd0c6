"""Clients that keep a server waiting: slow-loris, bodies that drip, readers that do not read, too many at once."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from cumulus.clock import SystemClock
from cumulus.server.http.certificates import Authority
from cumulus.server.http.connection import ConnectionLimits, ServedConnections
from cumulus.server.http.listener import Listener
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from starlette.requests import Request

SOON = ConnectionLimits(
    handshake_seconds=0.2, headers_seconds=0.2, headers_bytes=4096, body_seconds=0.2, body_bytes_per_second=2**20,
    stalled_seconds=0.3, idle_seconds=0.2, most=8,
)  # fmt: skip


class Streams:
    """How many answers without end are on their way."""

    def __init__(self) -> None:
        self.open = 0

    async def endless(self, request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            self.open += 1
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                self.open -= 1

        return StreamingResponse(chunks())


async def read(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture
def streams() -> Streams:
    return Streams()


@pytest.fixture
def app(streams: Streams) -> Starlette:
    return Starlette(routes=[Route("/", read, methods=["GET", "POST"]), Route("/endless", streams.endless)])


@contextmanager
def served(
    app: Starlette, sockets: Sequence[socket.socket] = (), limits: ConnectionLimits = SOON,
    encrypted: Sequence[socket.socket] = (), tls: ssl.SSLContext | None = None,
) -> Iterator[None]:  # fmt: skip
    listener = Listener(app, sockets, encrypted=encrypted, tls=tls, limits=limits)
    listener.start()
    try:
        yield
    finally:
        listener.close()


@pytest.fixture
def address(app: Starlette) -> Iterator[tuple[str, int]]:
    listening = socket.create_server(("127.0.0.1", 0))
    found = listening.getsockname()
    with served(app, [listening]):
        yield found


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side ends it, which it must."""
    found = b""
    try:
        while more := connection.recv(65536):
            found += more
    except ConnectionError:
        pass
    return found


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nhost: x\r\n",
        b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    ],
    ids=["nothing", "half a head", "blank lines", "half a body", "half a chunk"],
)
def test_what_never_comes_is_not_waited_for(address: tuple[str, int], sent: bytes) -> None:
    with socket.create_connection(address, 20) as connection:
        connection.sendall(sent)
        assert b"200" not in everything(connection)


def test_headers_that_drip_are_not_waited_for(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")

        def drip() -> bool:
            try:
                connection.sendall(b"x: y\r\n")
            except ConnectionError:
                return True
            return False

        eventually(drip)


def test_headers_are_of_limited_size(address: tuple[str, int]) -> None:
    with socket.create_connection(address, 20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * 5000)
        assert everything(connection).startswith(b"HTTP/1.1 431 ")


def test_many_requests_on_one_connection_are_answered_and_then_it_is_ended(address: tuple[str, int]) -> None:
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n" + b"z" * 5000
    with socket.create_connection(address, 20) as connection:
        connection.sendall(request * 20)
        assert everything(connection).count(b"\r\n\r\n5000") == 20


def test_who_half_closes_is_gone(address: tuple[str, int], streams: Streams) -> None:
    with socket.create_connection(address, 20) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        eventually(lambda: streams.open)
        connection.shutdown(socket.SHUT_WR)
        eventually(lambda: not streams.open)


def test_who_does_not_read_is_not_waited_for(address: tuple[str, int], streams: Streams) -> None:
    with socket.create_connection(address, 20) as connection:
        connection.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        eventually(lambda: streams.open)
        eventually(lambda: not streams.open)


def test_many_who_keep_it_waiting_take_little_memory(app: Starlette, streams: Streams) -> None:
    """Forty of each kind: headers that do not end, a body that does not, an answer that nobody reads."""
    limits = ConnectionLimits(headers_bytes=4096, most=400)
    listening = socket.create_server(("127.0.0.1", 0), backlog=400)
    # What the kernel holds for a connection is not what is counted, and takes long to fill.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    address = listening.getsockname()
    sent = (
        b"GET / HTTP/1.1\r\nx: " + b"y" * 4000,
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n" + b"z" * 60_000,
        b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n",
    )
    with served(app, [listening], limits), ExitStack() as held:
        tracemalloc.start()
        held.callback(tracemalloc.stop)
        for each in sent * 40:
            held.enter_context(socket.create_connection(address, PATIENCE)).sendall(each)
        eventually(lambda: streams.open == 40)
        for _ in range(3):
            with socket.create_connection(address, PATIENCE) as other:
                other.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                assert b"200" in everything(other)
        # What waits to be sent is a chunk or two for each; what came is 2.4 MB.
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20


def test_there_are_only_so_many(app: Starlette) -> None:
    limits = ConnectionLimits(most=4)
    listening = socket.create_server(("127.0.0.1", 0))
    with served(app, [listening], limits):
        held = [socket.create_connection(listening.getsockname(), 20) for _ in range(4)]
        for each in held:
            each.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200" in each.recv(1000)
        with socket.create_connection(listening.getsockname(), 20) as one_more:
            assert everything(one_more) == b""
        held.pop().close()

        def answered() -> bool:
            with socket.create_connection(listening.getsockname(), 20) as again:
                again.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                return b"200" in everything(again)

        eventually(answered)
        for each in held:
            each.close()


def test_one_user_has_at_most_half() -> None:
    connections = ServedConnections(ConnectionLimits(most=4))
    assert [connections.take(1000, share=True) for _ in range(3)] == [True, True, False]
    assert connections.take(0, share=False)
    connections.give_back(1000)
    assert connections.take(1000, share=True)
    assert connections.take(1001, share=True)
    assert not connections.take(1001, share=True)


def test_a_stranger_holds_no_place_that_has_shown_nothing(app: Starlette, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "api")
    authority.ensure_server(["localhost"], SystemClock().now())
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority.server)
    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    listening = socket.create_server(("127.0.0.1", 0))
    limits = ConnectionLimits(handshakes=4, most=4)
    with served(app, limits=limits, encrypted=[listening], tls=tls):
        address = listening.getsockname()
        silent = [socket.create_connection(address, 20) for _ in range(5)]

        def answered() -> bool:
            try:
                with trusting.wrap_socket(socket.create_connection(address, 20), server_hostname="localhost") as made:
                    made.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    return b"200" in everything(made)
            except OSError:
                return False

        # They would have their time still, but who comes later needs the place.
        eventually(answered)
        assert everything(silent[0]) == b""
        with socket.create_connection(address, 20) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"200" not in everything(plain)
        for each in silent:
            each.close()
    soon = ConnectionLimits(handshake_seconds=0.2)
    listening = socket.create_server(("127.0.0.1", 0))
    with (
        served(app, limits=soon, encrypted=[listening], tls=tls),
        socket.create_connection(listening.getsockname(), 20) as one,
    ):
        assert everything(one) == b""
