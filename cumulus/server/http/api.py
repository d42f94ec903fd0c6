"""What a handler finds in its request: the API, and who asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request

    from cumulus.server.api import Api
    from cumulus.service.identity import Identity


def api_of(request: Request) -> Api:
    found: Api = request.app.state.api
    return found


def identity_of(request: Request) -> Identity:
    """Who asks, as `authentication` found."""
    found: Identity = request.scope["cumulus.identity"]
    return found


READS = "cumulus.reads"


def changes_nothing(request: Request) -> None:
    """Say of a request, whose method says otherwise, that it only reads."""
    request.scope[READS] = True
