"""Serves the app on sockets, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from asyncio import sslproto
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from cumulus.server.http.connection import ConnectionLimits, ServedConnection, ServedConnections

if TYPE_CHECKING:
    from starlette.types import ASGIApp

DRAIN_SECONDS = 2
"""How long requests that are being answered have when the listener closes."""
SHUTDOWN_SECONDS = 5.0
TLS_BUFFER = 32 * 2**10
"""Bytes that asyncio holds for each connection over TLS; two records fit in. With its own quarter of a mebibyte, 1,000
idle watches would take more memory than all else that the daemon does."""
sslproto.SSLProtocol.max_size = TLS_BUFFER
ACCEPT_AGAIN_SECONDS = 0.1
TICK_SECONDS = 1.0
"""How often the date in answers is brought up to date."""


class Listener:
    """Open from `start` to `close`. On `encrypted` sockets it speaks TLS as `tls` says, on `sockets` it does not."""

    def __init__(
        self, app: ASGIApp, sockets: Sequence[socket.socket] = (), *,
        encrypted: Sequence[socket.socket] = (), tls: ssl.SSLContext | None = None,
        limits: ConnectionLimits = ConnectionLimits(),
    ) -> None:  # fmt: skip
        # What it has to say, strangers can make it say as often as they like; errors of ours `app` logs.
        logging.getLogger("uvicorn.error").disabled = True
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", server_header=False, http=ServedConnection,
            ws="none", timeout_graceful_shutdown=DRAIN_SECONDS, proxy_headers=False,
        )  # fmt: skip
        self._server = _Server(config, ServedConnections(limits.within_open_files()), encrypted, tls)
        self._sockets = list(sockets)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Returns once requests are answered. Raises what keeps it from that."""
        self._thread.start()
        self._server.is_up.wait()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Take no more requests, and end those that are open."""
        self._server.stop()
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve(self._sockets))
        except BaseException as error:
            self._failure = error
        finally:
            self._server.is_up.set()


class _Server(uvicorn.Server):
    """Signals are the daemon's; `is_up` is set when the sockets are listened on."""

    def __init__(
        self, config: uvicorn.Config, connections: ServedConnections,
        encrypted: Sequence[socket.socket], tls: ssl.SSLContext | None,
    ) -> None:  # fmt: skip
        super().__init__(config)
        self.is_up = threading.Event()
        self._connections = connections
        self._encrypted, self._tls = encrypted, tls
        self._accepting: list[asyncio.Task[None]] = []
        self._handshakes: dict[asyncio.Task[None], None] = {}
        """The oldest first."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    def stop(self) -> None:
        """From any thread."""
        self.should_exit = True
        if self._loop is not None and self._ended is not None:
            with contextlib.suppress(RuntimeError):  # The loop is closed already.
                self._loop.call_soon_threadsafe(self._ended.set)

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        made = partial(
            ServedConnection, config=self.config, server_state=self.server_state, app_state=self.lifespan.state,
            connections=self._connections,
        )  # fmt: skip
        self.servers = [
            await self._loop.create_server(made, sock=each, backlog=self.config.backlog) for each in sockets or ()
        ]
        self._accepting = [self._loop.create_task(self._accept(each, made)) for each in self._encrypted]
        self.started = True
        self.is_up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in (*self._accepting, *self._handshakes):
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for each in self._encrypted:
            each.close()
        await super().shutdown(sockets)

    async def _accept(self, listening: socket.socket, made: Callable[[], ServedConnection]) -> None:
        """Take connections for TLS. Those that are still shaking hands, of whom nothing is known, are few at once: to
        leave them so is all that a stranger needs."""
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
                # asyncio leaves it out where a socket was made without naming its protocol, and then each answer whose
                # head and body are written apart takes 40 ms more.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                # The client is gone already, or this process has too many files open.
                await asyncio.sleep(ACCEPT_AGAIN_SECONDS)
                continue
            if self._connections.is_full:
                connection.close()
                continue
            if len(self._handshakes) >= self._connections.limits.handshakes:
                # The oldest goes: who means it is done in a moment.
                oldest = next(iter(self._handshakes))
                oldest.cancel()
                del self._handshakes[oldest]
            task = loop.create_task(self._shake_hands(connection, made))
            self._handshakes[task] = None
            task.add_done_callback(lambda task: self._handshakes.pop(task, None))

    async def _shake_hands(self, connection: socket.socket, made: Callable[[], ServedConnection]) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                made, connection, ssl=self._tls, ssl_shutdown_timeout=SHUTDOWN_SECONDS,
                ssl_handshake_timeout=self._connections.limits.handshake_seconds,
            )  # fmt: skip
        except OSError:
            # It speaks no TLS, shows a bad certificate, or has gone.
            connection.close()

    async def main_loop(self) -> None:
        """uvicorn's looks ten times a second whether it is to end; an idle daemon should sleep."""
        assert self._ended is not None
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), TICK_SECONDS)
