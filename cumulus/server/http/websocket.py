"""A WebSocket in the place of an answer: a request that asks for one goes through all that others go through first."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from starlette.responses import Response

from cumulus.errors import Forbidden, UsageError
from cumulus.lib import websocket
from cumulus.server.http.tunnel import TAKE_OVER, TAKEN_OVER, Tunnel

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

LARGEST = 2**20
"""Bytes of a message."""
PING_SECONDS, SILENT_SECONDS = 20.0, 60.0
"""How often the other side is asked whether it is there, and for how long it may say nothing."""
_LAST_SECONDS = 2.0
"""For the other side to answer a close. Closing before it has would take from it what is on its way."""


class ServerWebSocket:
    """One task may receive while others send."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._messages = websocket.Messages(masked=True, largest=LARGEST)
        self._waiting: deque[bytes] = deque()
        self._heard: float | None = None
        """When the other side said something, or its word was waited for again; None while nobody listens."""
        self._closed = False
        self._sending = asyncio.Lock()
        """Of a frame at a time: what waits for room keeps its place."""

    async def receive(self) -> bytes | None:
        """The next message; None once the other side has closed, has gone or broke the protocol."""
        while not self._waiting:
            self._heard = time.monotonic()
            data = await self._tunnel.read()
            self._heard = None
            if not data:
                return None
            try:
                for kind, content in self._messages.feed(data):
                    if kind == websocket.PING:
                        await self._send(websocket.PONG, content)
                    elif kind == websocket.CLOSE:
                        await self._close(content[:2])
                        return None
                    elif kind != websocket.PONG:
                        self._waiting.append(content)
            except websocket.WebSocketError as error:
                await self._close(websocket.closing(error.code, str(error)))
                return None
            except ConnectionError:
                return None
        return self._waiting.popleft()

    async def send(self, data: bytes) -> None:
        """A message, once there is room for it. Raises ConnectionError."""
        await self._send(websocket.BINARY, data)

    async def close(self) -> None:
        """Say that this is all, and wait a moment for the other side to have it."""
        await self._close(websocket.closing(websocket.NORMAL))
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                while await self._tunnel.read():
                    pass
        except TimeoutError:
            pass
        self._tunnel.close()

    async def stay_awake(self) -> None:
        """Until the other side has said nothing for too long: it is asked now and then."""
        while self._heard is None or time.monotonic() - self._heard < SILENT_SECONDS:
            try:
                await self._send(websocket.PING, b"")
            except ConnectionError:
                return
            await asyncio.sleep(PING_SECONDS)

    async def _close(self, content: bytes) -> None:
        if self._closed:
            return
        with contextlib.suppress(ConnectionError):
            await self._send(websocket.CLOSE, content)
        self._closed = True

    async def _send(self, kind: int, data: bytes) -> None:
        async with self._sending:
            if self._closed:
                raise ConnectionResetError
            await self._tunnel.write(websocket.frame(kind, data))


def protocol_of(request: Request, known: Sequence[str]) -> str:
    """The first of the request's subprotocols that is known. Raises UsageError where it asks for no WebSocket, or for
    none that is known; Forbidden for a page of another origin."""
    headers = request.headers
    if headers.get("upgrade", "").lower() != "websocket" or TAKE_OVER not in request.scope:
        spoken = headers.get("upgrade", "")
        hint = "SPDY is not spoken here; kubectl speaks WebSocket from 1.31 on" if spoken else None
        raise UsageError("this path is for a WebSocket alone", hint=hint)
    if request.method != "GET" or headers.get("sec-websocket-version") != websocket.VERSION:
        raise UsageError(f"a WebSocket of version {websocket.VERSION} is asked for with GET")
    if not websocket.is_key(headers.get("sec-websocket-key", "")):
        raise UsageError("the header Sec-WebSocket-Key must be 16 bytes in base64")
    origin = headers.get("origin", "")
    # A browser shows a user's certificate for whatever page it is on.
    if origin and origin.partition("://")[2] != headers.get("host", ""):
        raise Forbidden("a page of another origin may not open a WebSocket here")
    given = [each.strip() for value in headers.getlist("sec-websocket-protocol") for each in value.split(",")]
    for protocol in given:
        if protocol in known:
            return protocol
    raise UsageError("none of the WebSocket's subprotocols is known", hint=f"there are {', '.join(known)}")


class WebSocketResponse(Response):
    """Accepts the WebSocket of the request and hands it to `talk`; it is closed where `talk` returns or raises."""

    def __init__(
        self, protocol: str, talk: Callable[[ServerWebSocket], Awaitable[None]], close: Callable[[], None]
    ) -> None:
        """`close` is called in any case, also where nothing was accepted."""
        super().__init__(status_code=101)
        self._protocol = protocol
        self._talk = talk
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            given = dict(scope["headers"])
            answer = websocket.accepted(given[b"sec-websocket-key"].decode("latin-1"))
            # For who counts answers.
            scope[TAKEN_OVER] = True
            tunnel: Tunnel = scope[TAKE_OVER](
                f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {answer}\r\nSec-WebSocket-Protocol: {self._protocol}\r\n\r\n".encode()
            )
            made = ServerWebSocket(tunnel)
            try:
                # Whoever goes away in the middle is no defect of ours.
                with contextlib.suppress(ConnectionError):
                    await self._talk(made)
            finally:
                tunnel.close()
        finally:
            self._close()
