"""Puts the page together: where it is asked from, who asks, then the routes of each module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from cumulus.errors import CumulusError
from cumulus.server.http.access_log import AccessLog
from cumulus.server.http.ui import (
    actions,
    changes,
    figures,
    job,
    job_log,
    jobs,
    nodes,
    overview,
    queue,
    sooner,
    static_files,
    users,
)
from cumulus.server.http.ui.origin import OwnOrigin
from cumulus.server.http.ui.pages import SESSION, error_page, plain_page
from cumulus.server.http.ui.sign_in import SignedIn, SignIn

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.server.api import Api

_log = structlog.get_logger("cumulus.ui")
_WORDS = {404: "There is no such page.", 405: "That can't be asked of this page."}


def make_site(api: Api) -> Starlette:
    """The ASGI application of all that is below `/ui`. It closes nothing."""
    app = Starlette(
        routes=[
            *SignIn().routes, *overview.ROUTES, *figures.ROUTES, *queue.ROUTES, *jobs.ROUTES, *job_log.ROUTES,
            *sooner.ROUTES, *actions.ROUTES, *job.ROUTES, *nodes.ROUTES, *users.ROUTES, *changes.ROUTES,
            *static_files.ROUTES,
        ],
        middleware=[
            Middleware(OwnOrigin, names=api.names), Middleware(SignedIn, api=api), Middleware(AccessLog),
        ],
        exception_handlers={CumulusError: _on_error, HTTPException: _on_http_error, Exception: _on_defect},
    )  # fmt: skip
    app.state.api = api
    return app


def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, CumulusError)
    return error_page(error, signed_in=SESSION in request.scope)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = _WORDS.get(error.status_code, error.detail)
    return plain_page(error.status_code, words, signed_in=SESSION in request.scope)


def _on_defect(request: Request, error: Exception) -> Response:
    _log.error("a page failed", method=request.method, path=request.url.path, exc_info=error)
    return plain_page(500, "The server failed; its log says how.", signed_in=SESSION in request.scope)
