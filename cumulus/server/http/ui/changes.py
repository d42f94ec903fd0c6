"""Tells browsers what changed: one stream for all pages of a browser, of names alone. A page that shows what changed
is asked for again by our script; what did not change is answered by 304.

Where a user may not see an object, the browser is told its kind. That shows when shares change hands, which everybody
may know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import TYPE_CHECKING

import orjson
from starlette.responses import StreamingResponse
from starlette.routing import Route

from cumulus.errors import CumulusError, Unauthenticated
from cumulus.resources.documents import lookup, owners
from cumulus.resources.key import Key
from cumulus.resources.registry import BY_NAME
from cumulus.server.http.ui.pages import SESSION, api_of, of_the_page
from cumulus.server.http.ui.sign_in import secret_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.resources.query import WatchEvent
    from cumulus.server.api import Api
    from cumulus.service.access.access import Access
    from cumulus.service.identity import Identity

GATHER_SECONDS = 0.1
"""How long changes are gathered before browsers are told."""
QUIET_SECONDS = 15.0
"""So often the browser hears that we are there and how late it is, and whether it is still signed in is looked at."""
MOST_KEYS = 100
"""Names that are told at once; where there are more, all may have changed."""
STREAM = "text/event-stream"


@of_the_page
async def watch(request: Request) -> Response:
    api, session = api_of(request), request.scope[SESSION]
    since = await api.call(api.service.objects.revision, session.identity)
    return StreamingResponse(_events(api, session.identity, secret_of(request.scope), since), media_type=STREAM)


async def _events(api: Api, identity: Identity, secret: str, since: int) -> AsyncIterator[bytes]:
    # A page that is older looks again: what was in between was not told.
    yield b"retry: 2000\n\n" + sse("hello", {"revision": since}) + _clock(api)
    now = asyncio.get_running_loop().time
    looked = now()
    try:
        async with api.bridge.watch(since=since) as watcher:
            while not watcher.closed:
                if events := await watcher.next(timeout=QUIET_SECONDS):
                    await asyncio.sleep(GATHER_SECONDS)
                    events = [*events, *await watcher.next(timeout=0)]
                    if found := await api.call(told, api.service.access, identity, events):
                        yield sse("change", {**found, "revision": max(each.revision for each in events)})
                if now() - looked >= QUIET_SECONDS:
                    looked = now()
                    await api.call(api.service.sessions.find, secret)
                    yield _clock(api)
    except Unauthenticated:
        yield sse("signed-out", {})
    except CumulusError:
        # The browser comes again, and is told to look at everything then.
        return


def _clock(api: Api) -> bytes:
    """Milliseconds since 1970 on this server, whatever the browser's clock says."""
    return sse("clock", {"now": round(api.service.clock.now().timestamp() * 1000)})


def told(access: Access, identity: Identity, events: Collection[WatchEvent]) -> dict[str, list[str]]:
    """The kinds of what changed, and the names of what the identity may see of it; nothing where no page shows it."""
    kinds: dict[str, None] = {}
    keys: dict[str, None] = {}
    seen: dict[tuple[str, str], bool] = {}
    for event in events:
        key = event.key
        if BY_NAME[key.kind].beats:
            continue
        kinds[key.kind] = None
        scope = key.kind, key.namespace
        if scope not in seen:
            plural = BY_NAME[key.kind].plural
            seen[scope] = access.may(identity, "watch", plural, key.namespace).allowed
        if seen[scope]:
            keys.update(dict.fromkeys(map(str, _shown_with(event))))
    return {"kinds": list(kinds), "keys": ["*"] if len(keys) > MOST_KEYS else list(keys)} if kinds else {}


def _shown_with(event: WatchEvent) -> list[Key]:
    """The object, and those on whose pages it is shown."""
    key, document = event.key, event.document
    found = [key]
    if about := lookup(document, "involvedObject"):
        found.append(Key(about.get("kind", ""), about.get("namespace") or "", about.get("name", "")))
    found += [Key(owner["kind"], key.namespace, owner["name"]) for owner in owners(document)]
    return found


def sse(event: str, data: object) -> bytes:
    return b"event: " + event.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


ROUTES = (Route("/ui/changes", watch),)
