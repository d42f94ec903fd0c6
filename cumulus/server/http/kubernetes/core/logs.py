"""`pods/log`: what the container of a pod wrote in its last attempt, or the one before."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse
from starlette.routing import Route

from cumulus.answers.logs import LogBytes
from cumulus.clock import parse_timestamp
from cumulus.errors import CumulusError, UsageError
from cumulus.lib.printable import one_line
from cumulus.resources.documents import lookup
from cumulus.resources.key import Key
from cumulus.server.http.api import api_of, identity_of
from cumulus.server.http.kubernetes.core.pods import CONTAINER, VIEW, attempts_of, job_of, status_cell
from cumulus.server.http.kubernetes.requests import flag, number

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.resources.key import Document
    from cumulus.server.api import Api
    from cumulus.service.identity import Identity


async def log(request: Request) -> Response:
    """Plain text. With `follow` it ends when the attempt does."""
    api, identity = api_of(request), identity_of(request)
    namespace, name = request.path_params["namespace"], request.path_params["name"]
    api.service.access.check(identity, "get", "pods/log", namespace, name, group="")
    follow, previous = flag(request, "follow"), flag(request, "previous")
    tail, limit = number(request, "tailLines"), number(request, "limitBytes")
    since, timestamps = _since(request), flag(request, "timestamps")
    if (container := request.query_params.get("container", "")) not in ("", CONTAINER):
        raise UsageError(f"container {one_line(container)} is not valid for pod {one_line(name)}: it is {CONTAINER}")
    key, replica, attempt = await api.call(_find, api, identity, namespace, name, previous)

    def chunks() -> Iterator[bytes | None]:
        begun = False
        for piece in api.service.logs.read(
            identity, key, attempt=attempt, replica=replica, follow=follow, tail=tail, since=since,
            timestamps=timestamps,
        ):  # fmt: skip
            data = piece.data if isinstance(piece, LogBytes) else b""
            # The first tells that there is a log, also where nothing was written yet: then the answer begins.
            yield data if data or not begun else None
            begun = True

    stream = api.streams.iterate(chunks)
    first = await anext(stream, b"")

    async def body() -> AsyncIterator[bytes]:
        left = sys.maxsize if limit is None else limit
        yield first[:left]
        left -= len(first)
        async with aclosing(stream):
            while left > 0:
                try:
                    chunk = await anext(stream)
                    yield chunk[:left]
                    left -= len(chunk)
                except StopAsyncIteration:
                    return
                except CumulusError as error:
                    yield f"\n[cumulus: the log could not be read any further: {one_line(str(error))}]\n".encode()
                    return

    return StreamingResponse(body(), media_type="text/plain")


def _since(request: Request) -> float | None:
    """In seconds since 1970."""
    seconds, moment = number(request, "sinceSeconds"), request.query_params.get("sinceTime", "")
    if seconds is not None and moment:
        raise UsageError("at most one of sinceTime and sinceSeconds may be given")
    if seconds is not None:
        return api_of(request).service.clock.now().timestamp() - seconds
    if not moment:
        return None
    try:
        return parse_timestamp(moment).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(f"sinceTime must be a time as in RFC 3339, not {one_line(moment)[:60]}") from None


def _find(api: Api, identity: Identity, namespace: str, name: str, previous: bool) -> tuple[Key, int, int]:
    """The job, the replica and the attempt. Raises NotFound, UsageError."""
    pod = VIEW.find(api.service, identity, namespace, name)
    found = job_of(name)
    assert found is not None
    key = Key(VIEW.stored, namespace, found[0])
    started = attempts_of(api.service.objects.get(identity, key))
    whose = f'container "{CONTAINER}" in pod "{one_line(name)}"'
    if previous and len(started) < 2:
        raise UsageError(f"previous terminated {whose} not found")
    if not started:
        raise UsageError(f"{whose} is waiting to start: {status_cell(pod)}{_why(pod)}")
    return key, found[1], started[-2 if previous else -1]["number"]


def _why(pod: Document) -> str:
    for condition in lookup(pod, "status.conditions") or ():
        if condition.get("message"):
            return f" ({condition['message']})"
    return ""


ROUTES = (Route("/api/v1/namespaces/{namespace}/pods/{name}/log", log),)
