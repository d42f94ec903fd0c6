"""Serves the app on sockets, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

DRAIN_SECONDS = 2
"""How long requests that are being answered have when the listener closes."""


class Listener:
    """Open from `start` to `close`. `options` are uvicorn's own, ssl for instance."""

    def __init__(self, app: ASGIApp, sockets: Sequence[socket.socket], options: Mapping[str, Any] = {}) -> None:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", server_header=False, http="httptools",
            ws="none", timeout_graceful_shutdown=DRAIN_SECONDS, **options,
        )  # fmt: skip
        self._server = _Server(config)
        self._sockets = list(sockets)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Returns once requests are answered."""
        self._thread.start()
        self._server.is_up.wait()

    def close(self) -> None:
        """Take no more requests, and end those that are open."""
        self._server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve(self._sockets))
        finally:
            self._server.is_up.set()


class _Server(uvicorn.Server):
    """Signals are the daemon's; `is_up` is set when the sockets are listened on."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()
