"""Answers the calls of `calls`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import StreamingResponse
from starlette.routing import Route

from cumulus.answers.codec import decode, encode
from cumulus.errors import CumulusError, NotFound, UsageError
from cumulus.lib.printable import one_line
from cumulus.server.api import Api
from cumulus.server.http.api import api_of, changes_nothing, identity_of
from cumulus.server.http.json_response import json_response
from cumulus.server.http.kubernetes.bodies import MAX_BYTES
from cumulus.server.http.kubernetes.requests import body_of
from cumulus.server.http.native.calls import CALLS, Call
from cumulus.server.http.status import status_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.service.identity import Identity
    from cumulus.service.service import Service

LINES = "application/x-ndjson"
_END = object()
"""Comes last in a stream that was not cut off."""


async def answer(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in CALLS:
        raise NotFound(f"there is no call {one_line(name)}", hint="the server may be older than this client")
    call, api, identity = CALLS[name], api_of(request), identity_of(request)
    if call.reads:
        changes_nothing(request)
    arguments = await arguments_of(request, call.arguments)
    bound = await api.call(_bound, call, api.service, identity, arguments)
    if not call.steps:
        return json_response(await api.call(lambda: {"value": encode(bound())}))
    # What is wrong before the first step is an error of the call.
    return StreamingResponse(_lines(api, await api.call(bound)), media_type=LINES)


async def arguments_of(request: Request, wanted: Mapping[str, Any], limit: int = MAX_BYTES) -> dict[str, Any]:
    """The arguments in the body, each of its type. Raises UsageError."""
    given = await body_of(request, limit=limit)
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise UsageError("the arguments of a call are a JSON object")
    if unknown := given.keys() - wanted.keys():
        raise UsageError(f"there is no argument {one_line(sorted(unknown)[0])}")
    return {name: decode(wanted[name], value, name) for name, value in given.items()}


def _bound(call: Call, service: Service, identity: Identity, arguments: Mapping[str, Any]) -> Callable[[], Any]:
    """The call, ready to be made. Raises UsageError where an argument is missing."""
    method = call.of(service)
    try:
        inspect.signature(method).bind(identity, **arguments)
    except TypeError as error:
        raise UsageError(str(error)) from None
    return partial(method, identity, **arguments)


async def _lines(api: Api, steps: Iterator[object]) -> AsyncIterator[bytes]:
    def to_the_end() -> Iterator[object]:
        yield from steps
        yield _END

    try:
        async with aclosing(api.streams.iterate(to_the_end)) as items:
            async for item in items:
                yield line({"end": True} if item is _END else {"item": encode(item)})
    except CumulusError as error:
        yield line({"error": status_of(error)})


def line(value: object) -> bytes:
    return orjson.dumps(value) + b"\n"


ROUTES = (Route("/cumulus/v1/{name}", answer, methods=["POST"]),)
