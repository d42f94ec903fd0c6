"""`POST /hooks/NAMESPACE/NAME`: a forge says that something was pushed, and the Source's repository is asked at once.

A forge has no user here, so these requests come before authentication: a signature with the Source's secret counts, and
nothing that the body says. Whoever may not learns nothing, not even whether there is such a Source.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse

from cumulus.errors import TooLarge, TooManyRequests
from cumulus.server.http.kubernetes import bodies
from cumulus.server.http.status import error_response, failure, status_response
from cumulus.server.rates import Rates

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from cumulus.server.api import Api

PREFIX = "/hooks/"
MAX_BYTES = 2**20
CALLS_A_SECOND, CALLS_AT_ONCE = 20.0, 2000
"""From one address."""
_PATH = re.compile(r"/hooks/([a-z0-9.-]{1,253})/([a-z0-9.-]{1,253})")


class Hooks:
    """The middleware. It stands in front of the one that asks who it is."""

    def __init__(self, app: ASGIApp, api: Api) -> None:
        self._app = app
        self._api = api
        self._rates = Rates(CALLS_A_SECOND, CALLS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._app(scope, receive, send)
            return
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        address = request.client.host if request.client is not None else ""
        if wait := self._rates.take(address):
            return error_response(TooManyRequests("too many calls from this address", seconds=wait))
        if request.method != "POST":
            return status_response(failure(405, "MethodNotAllowed", "a forge calls with POST"))
        try:
            body = await bodies.read(request, MAX_BYTES)
        except TooLarge as error:
            return error_response(error)
        path = _PATH.fullmatch(request.url.path)
        namespace, name = path.groups() if path is not None else ("", "")
        if not await self._api.call(self._api.service.sources.called, namespace, name, request.headers, body):
            return status_response(failure(403, "Forbidden", "no Source of this name takes this signature"))
        return JSONResponse({"status": "accepted"}, status_code=202)
