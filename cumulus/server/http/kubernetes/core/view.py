"""Views: kinds of Kubernetes' own, each computed from a stored kind. They are read, and never written.

Lists, tables and watches are those of any kind. A page of a list ends with all that one stored object is shown as, so
it may have some more items than were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from starlette.endpoints import HTTPEndpoint
from starlette.routing import Route

from cumulus.errors import NotFound, TooLarge
from cumulus.lib.printable import one_line
from cumulus.resources.documents import MALFORMED
from cumulus.resources.key import Document, Key
from cumulus.resources.kind import Column
from cumulus.resources.query import Page, Query
from cumulus.resources.selectors import Matcher, parse_fields
from cumulus.server.http.api import api_of, identity_of
from cumulus.server.http.kubernetes import reading
from cumulus.server.http.kubernetes.representation import form_of
from cumulus.server.http.kubernetes.tables import Shape, Shown
from cumulus.server.http.status import failure, status_response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.service.identity import Identity
    from cumulus.service.service import Service


MOST = 20_000
"""Objects in one answer, where no limit is given: who makes one job may have a thousand pods."""
KEPT = (
    "name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp",
    "deletionGracePeriodSeconds",
)  # fmt: skip
"""Metadata of the stored object that an object computed from it has too. Annotations may hold the whole spec, and
managed fields are those of the stored kind."""


def _same(name: str) -> str | None:
    return name


def narrowed(view: ComputedKind, query: Query) -> tuple[ComputedKind, str]:
    """Who asks for one name is spared all others."""
    for term in parse_fields(query.fields).terms:
        if term.path == ("metadata", "name") and term.equal and (name := view.stored_name(term.value)):
            return view, field_term("metadata.name", name)
    return view, ""


def field_term(path: str, value: str, *, equal: bool = True) -> str:
    """One term of a field selector."""
    escaped = value.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")
    return f"{path}{'=' if equal else '!='}{escaped}"


@dataclass(frozen=True, slots=True)
class ComputedKind:
    """One kind of core/v1, or of another group's v1, computed from the stored kind `stored`."""

    name: str
    plural: str
    namespaced: bool
    columns: tuple[Column, ...]
    stored: str
    convert: Callable[[Document, datetime], Sequence[Document]]
    """What a stored object is shown as. It may raise MALFORMED for one that is damaged, which is not shown then."""
    instead: str
    """What to do instead of writing one."""
    stored_name: Callable[[str], str | None] = _same
    """The name of the stored object by the name of what is shown; None where there can be none."""
    at_once: int = 500
    """Stored objects that are read at once: fewer, where each may be shown as many."""
    named: bool = True
    asked: Callable[[ComputedKind, Query], tuple[ComputedKind, str]] = narrowed
    """How a query is answered: by which view, and with which field selector for the stored objects."""
    group: str = ""
    whole: Callable[[Document], Document] | None = None
    """Makes what is sent of what is shown in tables and matched by selectors; None: it is that itself."""
    fields: Callable[[str], str] = str
    """A field selector of a client, with the names that fields have before that."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/v1" if self.group else "v1"

    def of(self, document: Document, now: datetime) -> Sequence[Document]:
        try:
            return self.convert(document, now)
        except MALFORMED:
            return ()

    def find(self, service: Service, identity: Identity, namespace: str, name: str) -> Document:
        """Raises NotFound, Forbidden."""
        stored = self.stored_name(name)
        if stored is not None:
            try:
                found = service.objects.get(identity, Key(self.stored, namespace, stored))
            except NotFound:
                found = None
            for document in self.of(found, service.clock.now()) if found else ():
                if document["metadata"]["name"] == name:
                    return document
        raise NotFound(f'{self.plural} "{one_line(name)}" not found')


class Viewed:
    """See `reading.ObjectReader`."""

    def __init__(
        self, view: ComputedKind, query: Query, service: Service, identity: Identity, *, most: int = MOST
    ) -> None:
        self._most = most
        self.watched = view.stored
        self.computed = True
        self._view, self._fields = view.asked(view, query)
        self._service = service
        self._identity = identity
        self._redact = service.objects.redacting(identity, view.stored)

    def page(self, query: Query) -> Page:
        view, now = self._view, self._service.clock.now()
        matches = Matcher(query)
        self._service.access.check(self._identity, "list", view.plural, query.namespace or "", group=view.group)
        at_once = min(view.at_once, query.limit or view.at_once)
        stored = replace(query, kind=view.stored, labels="", fields=self._fields, limit=at_once)
        items: list[Document] = []
        while True:
            found = self._service.objects.list(self._identity, stored)
            items += (shown for document in found.items for shown in view.of(document, now) if matches(shown))
            if query.limit is None and len(items) > self._most:
                raise TooLarge(f"there are more than {self._most:,} {view.plural}", hint="ask for pages, with a limit")
            if not found.continue_token or (query.limit and len(items) >= query.limit):
                return Page(items, found.revision, found.continue_token)
            stored = replace(stored, continue_token=found.continue_token)

    def packed(self, query: Query) -> None:
        return None

    def told(self, type: str, document: Document) -> Iterable[tuple[str, Document]]:
        seen = document if self._redact is None else self._redact(document)
        return [(type, shown) for shown in self._view.of(seen, self._service.clock.now())]


def routes(view: ComputedKind) -> tuple[Route, ...]:
    """`/api/v1/…` or `/apis/GROUP/v1/…`: get, list and watch. All else is answered by 405, with what to do instead."""

    class Collection(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            api, identity = api_of(request), identity_of(request)
            query = reading.query_of(request, view.name)
            query = replace(query, fields=view.fields(query.fields))
            source = Viewed(view, query, api.service, identity)
            return await reading.answer(
                request, source, shown(request, view, view.whole), query, view.plural, view.group
            )

        async def method_not_allowed(self, request: Request) -> Response:
            return not_allowed(request, view.instead)

    class Single(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            api, identity = api_of(request), identity_of(request)
            namespace, name = request.path_params.get("namespace", ""), request.path_params["name"]
            api.service.access.check(identity, "get", view.plural, namespace, name, group=view.group)
            found = await api.call(view.find, api.service, identity, namespace, name)
            form = shown(request, view, view.whole)
            return await api.call(lambda: form.form.response(form.one(found)))

        async def method_not_allowed(self, request: Request) -> Response:
            return not_allowed(request, view.instead)

    root = f"/apis/{view.api_version}" if view.group else "/api/v1"
    within = "/namespaces/{namespace}" if view.namespaced else ""
    given = (
        Route(f"{root}{within}/{view.plural}", Collection),
        Route(f"{root}{within}/{view.plural}/{{name}}", Single),
    )
    return (*given, Route(f"{root}/{view.plural}", Collection)) if view.namespaced else given


def shown(request: Request, view: Shape, whole: Callable[[Document], Document] | None = None) -> Shown:
    include = request.query_params.get("includeObject", "")
    return Shown(view, form_of(request), include, api_of(request).service.clock, whole=whole)


def not_allowed(request: Request, instead: str) -> Response:
    """405, with what to do instead."""
    response = status_response(failure(405, "MethodNotAllowed", instead))
    response.headers["allow"] = "GET, HEAD"
    return response
