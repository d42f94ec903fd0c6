"""`/livez`: the server answers. `/readyz`, and `/healthz`, its older name: the work is being done.

As Kubernetes' API server has them: `ok`, or 500 with a line for each check; `?verbose` shows those in any case, and
`?exclude=NAME` leaves one out. `/readyz/NAME` asks one of them alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from cumulus.lib.printable import one_line
from cumulus.server.http.api import api_of
from cumulus.service.readiness import Check

if TYPE_CHECKING:
    from starlette.requests import Request

_PING = Check("ping")
_NO_CACHE = {"cache-control": "no-cache, private", "x-content-type-options": "nosniff"}


async def _live(request: Request) -> Sequence[Check]:
    return (_PING,)


async def _ready(request: Request) -> Sequence[Check]:
    api = api_of(request)
    return (_PING, *await api.call(api.service.readiness))


def _route(path: str, checks: Callable[[Request], Awaitable[Sequence[Check]]]) -> tuple[Route, Route]:
    name = path.removeprefix("/")

    async def all_of_them(request: Request) -> PlainTextResponse:
        left_out = request.query_params.getlist("exclude")
        found = [each for each in await checks(request) if each.name not in left_out]
        return _answer(name, found, verbose="verbose" in request.query_params)

    async def one_of_them(request: Request) -> PlainTextResponse:
        asked = request.path_params["check"]
        found = [each for each in await checks(request) if each.name == asked]
        if not found:
            raise HTTPException(404, "the server could not find the requested resource")
        return _answer(name, found, verbose="verbose" in request.query_params)

    return Route(path, all_of_them), Route(path + "/{check}", one_of_them)


def _answer(name: str, checks: Sequence[Check], *, verbose: bool) -> PlainTextResponse:
    failed = any(each.problem for each in checks)
    if not failed and not verbose:
        return PlainTextResponse("ok", headers=_NO_CACHE)
    lines = [
        f"[-]{each.name} failed: {one_line(each.problem)}" if each.problem else f"[+]{each.name} ok" for each in checks
    ]
    lines.append(f"{name} check {'failed' if failed else 'passed'}")
    return PlainTextResponse("\n".join(lines) + "\n", 500 if failed else 200, _NO_CACHE)


ROUTES = (*_route("/livez", _live), *_route("/readyz", _ready), *_route("/healthz", _ready))
