"""`pods/portforward`: connections to ports at which a pod's processes listen, over a WebSocket.

Each port has two channels, 2n for the data and 2n + 1 for what is wrong; each begins with the port in two bytes.
kubectl asks in another way: see `spdy_ports`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.routing import Route

from cumulus.errors import UsageError
from cumulus.lib.printable import one_line
from cumulus.lib.remotecommand import CLOSE, V4, V5
from cumulus.server.http.api import api_of, identity_of
from cumulus.server.http.kubernetes.channels import cancelled
from cumulus.server.http.kubernetes.core.exec import channels_of, replica_of
from cumulus.server.http.kubernetes.core.spdy_ports import PROTOCOL as SPDY
from cumulus.server.http.kubernetes.core.spdy_ports import SpdyPorts
from cumulus.server.http.kubernetes.requests import is_port
from cumulus.server.http.websocket import ServerWebSocket, WebSocketResponse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_CHUNK = 2**15
_MOST = 16


async def portforward(request: Request) -> Response:
    api, identity = api_of(request), identity_of(request)
    key, replica = replica_of(request, "pods/portforward")
    protocol = await channels_of(request, key, replica, (V5, V4, SPDY))

    async def connect(port: int) -> socket.socket:
        connection = await api.hold(identity, api.service.exec.connect, identity, key, replica, port)
        connection.setblocking(False)
        return connection

    if protocol == SPDY:
        return WebSocketResponse(protocol, lambda other: SpdyPorts(other, connect).talk(), lambda: None)
    ports = _ports(request.query_params.getlist("ports"))
    made: list[socket.socket] = []
    try:
        for port in ports:
            made.append(await connect(port))
    except BaseException:
        _close(made)
        raise
    return WebSocketResponse(protocol, lambda other: _Forwarding(other, ports, made).talk(), lambda: _close(made))


def _ports(given: Sequence[str]) -> list[int]:
    words = [word for each in given for word in each.split(",")]
    if not words or len(words) > _MOST:
        raise UsageError(f"ports must name one port, or up to {_MOST}")
    for word in words:
        if not is_port(word):
            raise UsageError(f"{one_line(word)[:40]!r} is no port: a port is a number from 1 to 65535")
    return [int(word) for word in words]


def _close(made: Sequence[socket.socket]) -> None:
    for each in made:
        each.close()


class _Forwarding:
    def __init__(self, websocket: ServerWebSocket, ports: Sequence[int], connections: Sequence[socket.socket]) -> None:
        self._websocket = websocket
        self._ports = ports
        self._connections = connections

    async def talk(self) -> None:
        """Until the client has gone, or all connections have ended."""
        tasks: list[asyncio.Future[None]] = []
        try:
            for number, port in enumerate(self._ports):
                for channel in (2 * number, 2 * number + 1):
                    await self._websocket.send(bytes([channel]) + struct.pack("<H", port))
            others = (self._receive(), self._websocket.stay_awake())
            tasks = [asyncio.ensure_future(each) for each in (self._copies(), *others)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()
                await cancelled(tasks[1:])
                await self._websocket.close()
        finally:
            await cancelled(tasks)

    async def _copies(self) -> None:
        copying = [asyncio.ensure_future(self._copy(*each)) for each in enumerate(self._connections)]
        try:
            await asyncio.gather(*copying)
        finally:
            await cancelled(copying)

    async def _copy(self, number: int, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(connection, _CHUNK)
            except OSError as error:
                said = f"the connection was cut: {error.strerror}"
                await self._websocket.send(bytes([2 * number + 1]) + said.encode())
                return
            if not data:
                return
            await self._websocket.send(bytes([2 * number]) + data)

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        while (message := await self._websocket.receive()) is not None:
            if message[:1] == bytes([CLOSE]):
                self._shut(message[1:2])
                continue
            number, error = divmod(message[0], 2) if message else (0, 1)
            if error or number >= len(self._connections) or not message[1:]:
                continue
            try:
                await loop.sock_sendall(self._connections[number], message[1:])
            except OSError:
                # It reads no more. What it has written is still on its way.
                continue

    def _shut(self, channel: bytes) -> None:
        """The client sends no more in this channel."""
        number, error = divmod(channel[0], 2) if channel else (0, 1)
        if not error and number < len(self._connections):
            with contextlib.suppress(OSError):
                self._connections[number].shutdown(socket.SHUT_WR)


ROUTES = (Route("/api/v1/namespaces/{namespace}/pods/{name}/portforward", portforward, methods=["GET", "POST"]),)
"""POST is what older clients use, with SPDY: they are told."""
