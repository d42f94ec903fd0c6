"""`/livez`: that the server answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import PlainTextResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request


async def livez(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


ROUTES = (Route("/livez", livez),)
