"""The middleware that counts requests and measures how long they take."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from cumulus.server.http.tunnel import TAKE_OVER, TAKEN_OVER
from cumulus.service.access.matrix import RESOURCES

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from cumulus.server.metrics.requests import RequestMetrics

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_OTHER = "other"
_PLURALS = frozenset(resource.name.partition("/")[0] for resource in RESOURCES)


class RequestMetering:
    """In front of every route."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        code = 0

        async def sent(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        with self._metrics.running.track_inprogress():
            try:
                await self._app(scope, receive, sent)
            finally:
                verb, resource = _verb(scope), _resource(scope)
                # A client that went before the answer began is a 499, as nginx has it.
                self._metrics.total.labels(verb, resource, str(code or (101 if TAKEN_OVER in scope else 499))).inc()
                if verb not in ("WATCH", "CONNECT"):
                    self._metrics.seconds.labels(verb, resource).observe(perf_counter() - started)


def _verb(scope: Scope) -> str:
    """WATCH and CONNECT, as kube-apiserver calls them, for what lasts as long as the client likes."""
    query: bytes = scope.get("query_string") or b""
    asked = query.split(b"&")
    if any(value in asked for value in (b"watch=true", b"watch=1")):
        return "WATCH"
    if b"follow=true" in asked or TAKE_OVER in scope:
        return "CONNECT"
    return scope["method"] if scope["method"] in _METHODS else _OTHER


def _resource(scope: Scope) -> str:
    """The resource's plural in Kubernetes' paths, else the module of the handler. Never a word that only the request
    says: anybody could make labels."""
    match str(scope["path"]).strip("/").split("/"):
        case ["apis", _, _, "namespaces", _, plural, *_] | ["api", _, "namespaces", _, plural, *_]:
            found = plural
        case ["apis", _, _, plural, *_] | ["api", _, plural, *_]:
            found = plural
        case _:
            found = ""
    if found in _PLURALS:
        return found
    endpoint = scope.get("endpoint")
    return _OTHER if endpoint is None else str(endpoint.__module__).rpartition(".")[2]
