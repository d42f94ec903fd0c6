"""The streams of a program over Kubernetes' channels in a WebSocket (see `lib.remotecommand`)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import orjson

from cumulus.lib.remotecommand import CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT
from cumulus.server.http.status import failure

if TYPE_CHECKING:
    from cumulus.lib.execution import Execution, Exit
    from cumulus.server.http.websocket import ServerWebSocket

_CHUNK = 2**15


class Channels:
    """Carries the streams of a program over a WebSocket, until one of the two has ended."""

    def __init__(self, websocket: ServerWebSocket, execution: Execution, *, closes: bool) -> None:
        """`closes`: whether the protocol can close one stream."""
        self._websocket = websocket
        self._execution = execution
        self._closes = closes
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """The program has ended: what is in its streams now is all."""

    async def talk(self) -> None:
        """Returns once the client has it all, or has gone."""
        outputs = [(STDOUT, self._execution.stdout), (STDERR, self._execution.stderr)]
        # The first message tells that the program was started.
        await self._websocket.send(bytes([STDOUT]))
        ends = asyncio.ensure_future(self._end([each for each in outputs if each[1] >= 0]))
        others = [asyncio.ensure_future(each) for each in (self._receive(), self._websocket.stay_awake())]
        try:
            await asyncio.wait([ends, *others], return_when=asyncio.FIRST_COMPLETED)
            if ends.done():
                code = ends.result()
                await cancelled(others)
                await self._tell(code)
                await self._websocket.close()
        finally:
            await cancelled([ends, *others])

    async def _end(self, outputs: list[tuple[int, int]]) -> Exit:
        copying = [asyncio.ensure_future(self._copy(channel, stream)) for channel, stream in outputs]
        try:
            await until_readable(self._execution.done)
            ended = self._execution.exit()
            self._ended.set_result(None)
            await asyncio.gather(*copying)
            return ended
        finally:
            await cancelled(copying)

    async def _copy(self, channel: int, stream: int) -> None:
        while True:
            # What is there now is all, if the program had ended before this look.
            ended = self._ended.done()
            try:
                data = os.read(stream, _CHUNK)
            except BlockingIOError:
                if ended:
                    return
                await until_readable(stream, self._ended)
                continue
            except OSError:
                # How a terminal says that its other end is closed.
                return
            if not data:
                return
            await self._websocket.send(bytes([channel]) + data)

    async def _receive(self) -> None:
        while (message := await self._websocket.receive()) is not None:
            if not message:
                continue
            channel, data = message[0], message[1:]
            if channel == STDIN and data:
                await self._write(data)
            elif channel == RESIZE:
                self._resize(data)
            elif channel == CLOSE and self._closes and data[:1] == bytes([STDIN]):
                self._execution.close_stdin()

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._execution.stdin >= 0:
            try:
                view = view[os.write(self._execution.stdin, view) :]
            except BlockingIOError:
                await until_writable(self._execution.stdin)
            except OSError:
                # Nobody reads it any more: the program may go on all the same.
                self._execution.close_stdin()

    def _resize(self, data: bytes) -> None:
        try:
            size = json.loads(data)
            self._execution.resize(int(size["Width"]), int(size["Height"]))
        except (ValueError, KeyError, TypeError, OverflowError):
            # What is no size changes none.
            pass

    async def _tell(self, ended: Exit) -> None:
        if ended.message:
            channel = STDERR if self._execution.stderr >= 0 else STDOUT
            await self._websocket.send(bytes([channel]) + f"{ended.message}\r\n".encode())
        await self._websocket.send(bytes([ERROR]) + orjson.dumps(status_of(ended)))


def status_of(ended: Exit) -> dict[str, object]:
    """What the error channel says at the end."""
    if ended.code == 0:
        return {"metadata": {}, "status": "Success"}
    if ended.code is None:
        return failure(500, "InternalError", ended.message or "nobody saw how the program ended")
    message = f"command terminated with non-zero exit code {ended.code}"
    return {
        "metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(ended.code)}]},
    }  # fmt: skip


async def until_readable(descriptor: int, other: asyncio.Future[None] | None = None) -> None:
    """Or until the other future is done. One task at a time for each descriptor."""
    loop = asyncio.get_running_loop()
    await _ready(loop.add_reader, loop.remove_reader, descriptor, other)


async def until_writable(descriptor: int) -> None:
    """One task at a time for each descriptor."""
    loop = asyncio.get_running_loop()
    await _ready(loop.add_writer, loop.remove_writer, descriptor, None)


async def _ready(
    add: Callable[..., None], remove: Callable[[int], bool], descriptor: int, other: asyncio.Future[None] | None
) -> None:
    ready = asyncio.get_running_loop().create_future()

    def set_ready(*_: object) -> None:
        if not ready.done():
            ready.set_result(None)

    add(descriptor, set_ready)
    if other is not None:
        other.add_done_callback(set_ready)
    try:
        await ready
    finally:
        remove(descriptor)
        if other is not None:
            other.remove_done_callback(set_ready)


async def cancelled(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel them, and wait until they have let go of what they hold."""
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
