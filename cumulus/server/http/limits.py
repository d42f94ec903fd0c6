"""Keeps each request within what its user may ask of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cumulus.errors import TooManyRequests
from cumulus.server.http.status import error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from cumulus.server.limiter import Limiter


class Limited:
    """The middleware. It stands behind the one that knows who asks."""

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identity = scope["cumulus.identity"]
        try:
            counts = self._limiter.begin(identity)
        except TooManyRequests as error:
            await error_response(error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if counts:
                self._limiter.end(identity)
