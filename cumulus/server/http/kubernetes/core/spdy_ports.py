"""`pods/portforward` as kubectl asks for it: SPDY within a WebSocket. Each connection is two streams, one for the data
and one for what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from cumulus.errors import CumulusError
from cumulus.server.http import spdy
from cumulus.server.http.kubernetes.channels import cancelled
from cumulus.server.http.kubernetes.requests import is_port

if TYPE_CHECKING:
    from cumulus.server.http.websocket import ServerWebSocket

PROTOCOL = "SPDY/3.1+portforward.k8s.io"
_CHUNK = 2**15
_MOST = 512
"""Streams at once."""
_WAITING = 16
"""Pieces that wait for one connection before all of them wait."""

_Connect = Callable[[int], Awaitable[socket.socket]]
"""Makes a connection to a port, which does not block. Raises CumulusError."""


class SpdyPorts:
    def __init__(self, websocket: ServerWebSocket, connect: _Connect) -> None:
        self._websocket = websocket
        self._connect = connect
        self._session = spdy.SpdySession()
        self._errors: dict[str, int] = {}
        """The stream for what is wrong, by the request that it belongs to."""
        self._pieces: dict[int, asyncio.Queue[bytes]] = {}
        """What is to be sent to the port of each data stream; b"" is the end."""
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def talk(self) -> None:
        """Until the client has gone."""
        awake = asyncio.ensure_future(self._websocket.stay_awake())
        hearing = asyncio.ensure_future(self._hear())
        try:
            await asyncio.wait([awake, hearing], return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                hearing.result()
        except (ConnectionError, spdy.SpdyError):
            pass
        finally:
            await cancelled([awake, hearing, *self._tasks.values()])

    async def _hear(self) -> None:
        while (message := await self._websocket.receive()) is not None:
            for event in self._session.feed(message):
                match event:
                    case spdy.Ping(frame):
                        await self._websocket.send(frame)
                    case spdy.Opened(stream, headers):
                        await self._open(stream, {name.lower(): value for name, value in headers.items()})
                    case spdy.Data(stream, content, last):
                        if (pieces := self._pieces.get(stream)) is not None:
                            for piece in (*([content] if content else []), *([b""] if last else [])):
                                await pieces.put(piece)
                    case spdy.Reset(stream):
                        if (task := self._tasks.get(stream)) is not None:
                            task.cancel()

    async def _open(self, stream: int, headers: dict[str, str]) -> None:
        kind, request, port = headers.get("streamtype", ""), headers.get("requestid", ""), headers.get("port", "")
        known = kind == "error" or (kind == "data" and request in self._errors)
        if not known or not is_port(port) or stream in self._tasks or len(self._errors) + len(self._tasks) >= _MOST:
            await self._websocket.send(self._session.reset(stream))
            return
        await self._websocket.send(self._session.reply(stream))
        if kind == "error":
            self._errors[request] = stream
            return
        self._pieces[stream] = asyncio.Queue(_WAITING)
        self._tasks[stream] = asyncio.create_task(self._carry(stream, self._errors.pop(request), int(port)))
        self._tasks[stream].add_done_callback(lambda _: self._forget(stream))

    def _forget(self, stream: int) -> None:
        self._tasks.pop(stream, None)
        self._pieces.pop(stream, None)

    async def _carry(self, stream: int, error: int, port: int) -> None:
        said = b""
        with contextlib.suppress(ConnectionError):
            try:
                with await self._connect(port) as connection:
                    sending = asyncio.create_task(self._send(stream, connection))
                    try:
                        loop = asyncio.get_running_loop()
                        while data := await loop.sock_recv(connection, _CHUNK):
                            await self._websocket.send(self._session.data(stream, data))
                    finally:
                        await cancelled([sending])
            except CumulusError as problem:
                said = str(problem).encode()
            except OSError as problem:
                said = str(problem.strerror).encode()
            await self._websocket.send(self._session.data(error, said, last=True))
            await self._websocket.send(self._session.data(stream, b"", last=True))

    async def _send(self, stream: int, connection: socket.socket) -> None:
        loop, pieces = asyncio.get_running_loop(), self._pieces[stream]
        with contextlib.suppress(OSError):
            while piece := await pieces.get():
                await loop.sock_sendall(connection, piece)
            connection.shutdown(socket.SHUT_WR)
            return
        # It reads no more: what still comes for it is nobody's.
        while await pieces.get():
            pass
