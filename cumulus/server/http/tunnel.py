"""A connection that has left HTTP: its bytes both ways, no faster than either side takes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import Transport

    from uvicorn.protocols.http.flow_control import FlowControl

TAKEN_OVER = "cumulus.taken_over"
"""There once that was called: the answer was 101."""
UNREAD = 2**16
"""Bytes that wait here before the other side has to."""
TAKE_OVER = "cumulus.take_over"
"""Where a request's scope has the call that makes a tunnel of its connection: of those that ask for an upgrade."""


class Tunnel:
    """Made by `connection.ServedConnection`, which also feeds it."""

    def __init__(self, transport: Transport, flow: FlowControl) -> None:
        self._transport = transport
        self._flow = flow
        self._buffer = bytearray()
        self._come = asyncio.Event()
        self._over = False

    def feed(self, data: bytes) -> None:
        self._buffer += data
        self._come.set()
        if len(self._buffer) > UNREAD:
            self._flow.pause_reading()

    def end(self) -> None:
        """The other side has closed the connection, or it is lost."""
        self._over = True
        self._come.set()

    async def read(self) -> bytes:
        """What has come; b"" at the end."""
        while not self._buffer:
            if self._over:
                return b""
            self._come.clear()
            await self._come.wait()
        data = bytes(self._buffer)
        self._buffer.clear()
        self._flow.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Returns once there is room for more. Raises ConnectionError."""
        if self._over or self._transport.is_closing():
            raise ConnectionResetError
        self._transport.write(data)
        await self._flow.drain()

    def close(self) -> None:
        """What was written before is still sent."""
        self._transport.close()
