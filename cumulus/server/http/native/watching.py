"""One watch of several kinds, in the order of the store: what `Client.watch` asks for.

Kubernetes' watches are of one kind each, and can't begin before the first revision.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse
from starlette.routing import Route

from cumulus.errors import CumulusError, Expired, UsageError
from cumulus.lib.printable import one_line
from cumulus.resources.registry import BY_NAME
from cumulus.server.api import Api
from cumulus.server.http.api import api_of, identity_of
from cumulus.server.http.kubernetes.requests import number
from cumulus.server.http.native.handlers import LINES, line
from cumulus.server.http.status import status_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.resources.key import Document
    from cumulus.resources.query import WatchEvent
    from cumulus.service.redaction import Redact

QUIET_SECONDS = 10.0
"""After so long without an event the client hears up to which revision there was none."""


async def watch(request: Request) -> Response:
    """`since`: the revision after which it begins. `kinds`, with commas. `namespace`: of kinds that have one; all if
    left out."""
    api, identity = api_of(request), identity_of(request)
    since, namespace = number(request, "since", 0) or 0, request.query_params.get("namespace") or None
    kinds = frozenset(filter(None, request.query_params.get("kinds", "").split(",")))
    if unknown := kinds - BY_NAME.keys() or (not kinds and {""}):
        raise UsageError(f"there is no kind {one_line(sorted(unknown)[0])!r}")
    for kind in map(BY_NAME.__getitem__, sorted(kinds)):
        where = (namespace or "") if kind.namespaced else ""
        await api.call(api.service.access.check, identity, "watch", kind.plural, where)
    if since > await api.call(api.service.objects.revision, identity):
        raise Expired(f"revision {since} is of another store: list again")
    redact = {kind: await api.call(api.service.objects.redacting, identity, kind) for kind in kinds}
    return StreamingResponse(_lines(api, since, kinds, namespace, redact), media_type=LINES)


def _shown(event: WatchEvent, redact: Mapping[str, Redact | None]) -> Document:
    shown = redact[event.key.kind]
    return event.document if shown is None else shown(event.document)


async def _lines(
    api: Api, since: int, kinds: Collection[str], namespace: str | None, redact: Mapping[str, Redact | None]
) -> AsyncIterator[bytes]:
    only = next(iter(kinds)) if len(kinds) == 1 else None
    try:
        async with api.bridge.watch(since=since, kind=only) as watcher:
            while not watcher.closed:
                events = await watcher.next(timeout=QUIET_SECONDS)
                told = [
                    line({"type": event.type, "revision": event.revision, "object": _shown(event, redact)})
                    for event in events
                    if event.key.kind in kinds and (namespace is None or event.key.namespace in ("", namespace))
                ]
                yield b"".join(told) or line({"revision": max(since, watcher.revision)})
    except CumulusError as error:
        yield line({"error": status_of(error)})


ROUTES = (Route("/cumulus/v1/watch", watch),)
