"""A line in the daemon's log for each request that changes something. Neither headers nor bodies come into it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog

from cumulus.lib.printable import one_line
from cumulus.server.http.api import READS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = structlog.get_logger("cumulus.api")
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MOST = 300
"""Characters of a path."""


class AccessLog:
    """The middleware. It stands behind the one that knows who asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in CHANGING:
            await self._app(scope, receive, send)
            return
        began, code = time.monotonic(), 0

        async def noting(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            if READS not in scope:
                self._log(scope, code, time.monotonic() - began)

    @staticmethod
    def _log(scope: Scope, code: int, seconds: float) -> None:
        # What a client calls itself, or asks for, moves no cursor and forges no line.
        path = one_line(scope["path"][:_MOST])
        user = one_line(scope["cumulus.identity"].name)
        milliseconds = round(seconds * 1000)
        _log.info("request", method=scope["method"], path=path, user=user, code=code, milliseconds=milliseconds)
