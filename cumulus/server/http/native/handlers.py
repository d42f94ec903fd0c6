"""Answers the calls of `calls`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from starlette.responses import StreamingResponse
from starlette.routing import Route

from cumulus.answers.codec import decode, encode
from cumulus.answers.logs import LogBytes
from cumulus.errors import CumulusError, NotFound, UsageError
from cumulus.lib.printable import one_line
from cumulus.lib.returned import Returned
from cumulus.server.api import Api
from cumulus.server.http.api import api_of, changes_nothing, identity_of
from cumulus.server.http.json_response import json_response
from cumulus.server.http.kubernetes.bodies import MAX_BYTES
from cumulus.server.http.kubernetes.requests import body_of
from cumulus.server.http.native.calls import CALLS, NativeCall
from cumulus.server.http.status import status_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.service.identity import Identity
    from cumulus.service.service import Service

LINES = "application/x-ndjson"
_PAUSE_SECONDS = 1.0
"""After so long a reader of a log that is silent is told that it goes on."""


async def answer(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in CALLS:
        raise NotFound(f"there is no call {one_line(name)}", hint="the server may be older than this client")
    call, api, identity = CALLS[name], api_of(request), identity_of(request)
    if call.reads:
        changes_nothing(request)
    arguments = await arguments_of(request, call.arguments)

    def made() -> Any:
        return _bound(call, api.service, identity, arguments)()

    if not call.steps:
        return json_response(await api.call(lambda: {"value": encode(made())}))
    # What is wrong before the first step is an error of the call.
    return StreamingResponse(_lines(api, await api.call(made)), media_type=LINES)


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


def _bound(call: NativeCall, service: Service, identity: Identity, arguments: Mapping[str, Any]) -> Callable[[], Any]:
    """The call, ready to be made. Raises UsageError where an argument is missing."""
    method = call.of(service)
    try:
        inspect.signature(method).bind(identity, **arguments)
    except TypeError as error:
        raise UsageError(str(error)) from None
    return partial(method, identity, **arguments)


async def _lines(api: Api, steps: Iterator[object]) -> AsyncIterator[bytes]:
    def to_the_end() -> Iterator[object]:
        told = Returned(steps)
        yield from _without_pauses(told)
        yield _Ended(told.value)

    try:
        async with aclosing(api.streams.iterate(to_the_end)) as items:
            async for item in items:
                yield line(_end(item) if isinstance(item, _Ended) else {"item": encode(item)})
    except CumulusError as error:
        yield line({"error": status_of(error)})


class _Ended(NamedTuple):
    """Comes last in a stream that was not cut off."""

    value: object
    """What the call returned beside its steps."""


def _end(ended: _Ended) -> dict[str, object]:
    return {"end": True} if ended.value is None else {"end": True, "value": encode(ended.value)}


def _without_pauses(steps: Iterable[object]) -> Iterator[object]:
    """The steps, with None for what says only that a log goes on, unless nothing else has come for a while: a short
    program's log is looked at every few milliseconds."""
    attempt, told = 0, 0.0
    for step in steps:
        now = monotonic()
        if isinstance(step, LogBytes):
            if step.attempt == attempt and not (step.data or step.dropped) and now < told + _PAUSE_SECONDS:
                yield None
                continue
            attempt = step.attempt
        told = now
        yield step


def line(value: object) -> bytes:
    return orjson.dumps(value) + b"\n"


ROUTES = (Route("/cumulus/v1/{name}", answer, methods=["POST"]),)
