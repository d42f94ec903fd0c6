"""`/metrics`: what Prometheus reads. It needs the role viewer in all namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

from cumulus.errors import NotFound
from cumulus.server.http.api import api_of, identity_of

if TYPE_CHECKING:
    from starlette.requests import Request

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


async def metrics(request: Request) -> Response:
    api = api_of(request)
    asks = identity_of(request)
    await api.call(api.service.access.check, asks, "get", "metrics")
    if api.metrics is None:
        raise NotFound("this server measures nothing")
    return Response(await api.call(api.metrics.exposition), media_type=TEXT_FORMAT)


ROUTES = (Route("/metrics", metrics),)
