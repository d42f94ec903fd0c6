"""Lists and watches, of stored objects and of views of them: what a client may ask, and how it is answered."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from starlette.responses import StreamingResponse

from cumulus.errors import Expired, UsageError
from cumulus.resources.packed import PackedPage
from cumulus.resources.query import Page, Query
from cumulus.server.http.api import api_of, identity_of
from cumulus.server.http.kubernetes.representation import not_acceptable
from cumulus.server.http.kubernetes.requests import flag, namespace_of, number
from cumulus.server.http.kubernetes.watching import KubernetesWatch

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.resources.key import Document
    from cumulus.server.http.kubernetes.tables import Shown
    from cumulus.service.identity import Identity
    from cumulus.service.service import Service

LONGEST_WATCH, SHORTEST_WATCH = 3600, 1800
"""Seconds until a watch ends by itself, so that clients spread over the daemons."""


class ObjectReader(Protocol):
    """What a list and a watch read. One for each request."""

    @property
    def watched(self) -> str | None:
        """The stored kind whose changes are watched; None: all of them."""
        ...

    @property
    def computed(self) -> bool:
        """Whether what is shown is computed from what is stored."""
        ...

    def page(self, query: Query) -> Page:
        """What the query finds. It may block, and raises what a list of the service raises."""
        ...

    def packed(self, query: Query) -> PackedPage | None:
        """The same with each object as its JSON; None where what is shown is not what is stored."""
        ...

    def told(self, type: str, document: Document) -> Iterable[tuple[str, Document]]:
        """What a change of a stored object means for who watches this."""
        ...


class Stored:
    """An `ObjectReader`: the objects of a kind as they are stored."""

    def __init__(self, service: Service, identity: Identity, kind: str) -> None:
        self.watched = kind
        self.computed = False
        self._service = service
        self._identity = identity
        self._redact = service.objects.redacting(identity, kind)

    def page(self, query: Query) -> Page:
        return self._service.objects.list(self._identity, query)

    def packed(self, query: Query) -> PackedPage | None:
        return self._service.objects.list_packed(self._identity, query)

    def told(self, type: str, document: Document) -> Iterable[tuple[str, Document]]:
        return ((type, document if self._redact is None else self._redact(document)),)


def query_of(request: Request, kind: str) -> Query:
    given = request.query_params
    return Query(
        kind, namespace_of(request), given.get("labelSelector", ""), given.get("fieldSelector", ""),
        limit=number(request, "limit") or None, continue_token=given.get("continue", ""),
    )  # fmt: skip


async def answer(
    request: Request, source: ObjectReader, shown: Shown, query: Query, resource: str, group: str
) -> Response:
    """A list, or a watch where the request asks for one. Who may list `resource` is asked by the source."""
    if flag(request, "watch"):
        api_of(request).service.access.check(
            identity_of(request), "watch", resource, query.namespace or "", group=group
        )
        return await _watch(request, source, shown, query)
    return await _list(request, source, shown, query)


async def _list(request: Request, source: ObjectReader, shown: Shown, query: Query) -> Response:
    api = api_of(request)
    revision = _revision(request)
    match request.query_params.get("resourceVersionMatch", ""):
        case "Exact" if revision:
            query = replace(query, revision=revision)
        case "" | "NotOlderThan":
            await _check_known(request, revision)
        case _:
            raise UsageError("resourceVersionMatch must be Exact, with a resourceVersion, or NotOlderThan")

    def answered() -> Response:
        if shown.takes_packed and (packed := source.packed(query)) is not None:
            return shown.form.packed_response(shown.packed(packed.runs, _of_list(packed)))
        page = source.page(query)
        return shown.form.response(shown.many(page.items, _of_list(page)))

    return await api.call(answered)


def _of_list(page: Page | PackedPage) -> Document:
    """The metadata of a list."""
    return {
        "resourceVersion": str(page.revision),
        **({"continue": page.continue_token} if page.continue_token else {}),
    }


async def _watch(request: Request, source: ObjectReader, shown: Shown, query: Query) -> Response:
    if shown.form.yaml:
        raise not_acceptable()
    api = api_of(request)
    query = replace(query, limit=None, continue_token="")
    initial = flag(request, "sendInitialEvents")
    since = None if initial else _revision(request)
    await _check_known(request, since)
    seconds = number(request, "timeoutSeconds") or random.randint(SHORTEST_WATCH, LONGEST_WATCH)
    following = KubernetesWatch(
        api, source, query, shown, since=since, bookmarks=flag(request, "allowWatchBookmarks"), initial=initial,
        seconds=seconds,
    )  # fmt: skip
    first = await following.prepare()
    return StreamingResponse(following.lines(first), media_type=shown.form.media_type)


def _revision(request: Request) -> int | None:
    """None where any will do."""
    return number(request, "resourceVersion") or None


async def _check_known(request: Request, revision: int | None) -> None:
    """Raises Expired for a revision that is yet to come: it is of another store, and the client has to list again."""
    api = api_of(request)
    if revision and revision > await api.call(api.service.objects.revision, identity_of(request)):
        raise Expired(f"resourceVersion {revision} is of another store: list again")
