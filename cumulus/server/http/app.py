"""Puts the API together: who asks, then the routes of each module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from cumulus.errors import CumulusError
from cumulus.server.http import health, metrics, native
from cumulus.server.http.access_log import AccessLog
from cumulus.server.http.authentication import AuthenticateRequest, Authentication
from cumulus.server.http.hooks import Hooks
from cumulus.server.http.kubernetes import core, discovery, objects, openapi, reviews
from cumulus.server.http.kubernetes.requests import subject_of
from cumulus.server.http.limits import Limited
from cumulus.server.http.request_metering import RequestMetering
from cumulus.server.http.status import error_response, failure, status_response
from cumulus.server.http.ui.door import PageDoor, nothing_else

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from cumulus.server.api import Api

ROUTES: Sequence[BaseRoute] = (
    *objects.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
    *discovery.ROUTES,
    *openapi.ROUTES,
    *core.ROUTES,
    *reviews.ROUTES,
    *native.ROUTES,
)
"""Those of each module, in the order in which they are tried: what is asked for most comes first."""

_log = structlog.get_logger("cumulus.api")
_REASONS = {404: "NotFound", 405: "MethodNotAllowed", 406: "NotAcceptable"}


def make_app(api: Api, authenticate: AuthenticateRequest) -> Starlette:
    """The ASGI application. It closes nothing: the caller owns the `Api`."""

    async def check_token(id: str) -> None:
        await api.call(api.service.tokens.check_valid, id)

    middleware = [
        Middleware(Hooks, api=api),
        Middleware(PageDoor, api=api),
        Middleware(Authentication, authenticate=authenticate, check=check_token),
        Middleware(Limited, limiter=api.limiter),
        Middleware(AccessLog),
    ]
    if api.metrics is not None:
        # First, so that refused requests count too.
        middleware.insert(0, Middleware(RequestMetering, metrics=api.metrics.requests))
    app = Starlette(
        routes=ROUTES,
        middleware=middleware,
        exception_handlers={CumulusError: _on_error, HTTPException: _on_http_error, Exception: _on_defect},
    )
    app.state.api = api
    return app


def make_page_app(api: Api) -> ASGIApp:
    """The page for browsers, and nothing of the API."""
    app: ASGIApp = PageDoor(nothing_else, api)
    return app if api.metrics is None else RequestMetering(app, api.metrics.requests)


def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CumulusError)
    return error_response(error, details=subject_of(request, error))


def _on_http_error(_: Request, error: Exception) -> Response:
    """What the framework says: no such path, no such method."""
    assert isinstance(error, HTTPException)
    reason = _REASONS.get(error.status_code, "BadRequest")
    response = status_response(failure(error.status_code, reason, error.detail))
    response.headers.update(error.headers or {})
    return response


def _on_defect(request: Request, error: Exception) -> Response:
    _log.error("a request failed", method=request.method, path=request.url.path, exc_info=error)
    return status_response(failure(500, "InternalError", "the server failed; its log says how"))
