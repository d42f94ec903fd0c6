"""`pods/exec`: a program beside the one of a pod, over a WebSocket. `pods/attach`: the terminal of that one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from starlette.routing import Route

from cumulus.errors import CumulusError, NotFound, UsageError
from cumulus.lib.execution import ExecRequest
from cumulus.lib.printable import one_line
from cumulus.lib.remotecommand import V4, V5
from cumulus.resources.key import Key
from cumulus.server.api import Refused
from cumulus.server.http.api import api_of, identity_of
from cumulus.server.http.kubernetes.channels import Channels
from cumulus.server.http.kubernetes.core.pods import CONTAINER, VIEW, job_of
from cumulus.server.http.kubernetes.requests import flag
from cumulus.server.http.websocket import WebSocketResponse, protocol_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.lib.execution import Execution

TERMINAL = "xterm"
"""What a terminal is where the client does not say: as in a container."""
_LONGEST_TERMINAL = 64
_AGAIN_SECONDS = 10.0
"""Within which kubectl asks by SPDY."""


async def exec(request: Request) -> Response:
    api, identity = api_of(request), identity_of(request)
    key, replica = replica_of(request, "pods/exec")
    protocol = await channels_of(request, key, replica)
    given = request.query_params
    terminal = _terminal(given.get("term", "")) if flag(request, "tty") else ""
    asked = ExecRequest(tuple(given.getlist("command")), flag(request, "stdin"), terminal)
    with telling_again(request):
        made = await api.hold(identity, api.service.exec.exec, identity, key, replica, asked)
    return _joined(protocol, made)


async def attach(request: Request) -> Response:
    api, identity = api_of(request), identity_of(request)
    key, replica = replica_of(request, "pods/attach")
    protocol = await channels_of(request, key, replica, terminal=True)
    with telling_again(request):
        execution = await api.hold(
            identity, api.service.exec.attach, identity, key, replica, stdin=flag(request, "stdin")
        )  # fmt: skip
    return _joined(protocol, execution)


async def channels_of(
    request: Request, key: Key, replica: int, known: tuple[str, ...] = (V5, V4), *, terminal: bool = False
) -> str:
    """The version of the channels that the request asks for. Raises as `protocol_of`; but kubectl, where a WebSocket
    was refused, asks for SPDY and tells what is wrong with that: so it is told what was wrong at first."""
    try:
        return protocol_of(request, known)
    except UsageError:
        api, identity = api_of(request), identity_of(request)
        await api.call(api.service.exec.check, identity, key, replica, terminal=terminal)
        refused = api.refused.pop(identity[:2], None)
        if refused and refused.place == request.url.path and time.monotonic() < refused.at + _AGAIN_SECONDS:
            raise refused.error from None
        raise


@contextmanager
def telling_again(request: Request) -> Iterator[None]:
    """What is wrong here is told too where the client asks again by SPDY: see `channels_of`."""
    try:
        yield
    except CumulusError as error:
        refused = Refused(time.monotonic(), request.url.path, error)
        api_of(request).refused[identity_of(request)[:2]] = refused
        raise


def replica_of(request: Request, resource: str) -> tuple[Key, int]:
    """The job and the replica of the pod in the path, for who may connect to it. Raises Forbidden, NotFound,
    UsageError."""
    namespace, name = request.path_params["namespace"], request.path_params["name"]
    api_of(request).service.access.check(identity_of(request), "create", resource, namespace, name, group="")
    if (container := request.query_params.get("container", "")) not in ("", CONTAINER):
        raise UsageError(f"container {one_line(container)} is not valid for pod {one_line(name)}: it is {CONTAINER}")
    found = job_of(name)
    if found is None:
        raise NotFound(f'pods "{one_line(name)}" not found')
    return Key(VIEW.stored, namespace, found[0]), found[1]


def _joined(protocol: str, execution: Execution) -> WebSocketResponse:
    return WebSocketResponse(
        protocol, lambda made: Channels(made, execution, closes=protocol == V5).talk(), execution.close
    )


def _terminal(name: str) -> str:
    if not name:
        return TERMINAL
    if len(name) > _LONGEST_TERMINAL or not name.isascii() or not name.isprintable() or " " in name:
        raise UsageError(f"{one_line(name)[:80]!r} is no kind of terminal, as TERM names it")
    return name


ROUTES = tuple(
    Route(f"/api/v1/namespaces/{{namespace}}/pods/{{name}}/{called.__name__}", called, methods=["GET", "POST"])
    for called in (exec, attach)
)
"""POST is what older clients use, with SPDY: they are told."""
