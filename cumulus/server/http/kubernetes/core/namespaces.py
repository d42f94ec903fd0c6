"""Namespaces are implicit: each is there, and those with something in them are listed. Creating one is accepted, for
tools that do so first, and stores nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.endpoints import HTTPEndpoint
from starlette.routing import Route

from cumulus.errors import InvalidObject
from cumulus.resources.fields import check_name
from cumulus.resources.key import Document
from cumulus.resources.kind import Column
from cumulus.resources.query import Page, Query
from cumulus.resources.selectors import Matcher
from cumulus.server.http.api import api_of, identity_of
from cumulus.server.http.kubernetes import reading
from cumulus.server.http.kubernetes.core.view import not_allowed, shown
from cumulus.server.http.kubernetes.messages import NAMESPACE
from cumulus.server.http.kubernetes.requests import dry_run, typed_body_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.service.identity import Identity
    from cumulus.service.service import Service

_UIDS = uuid.UUID("6c1b3f0e-5d0f-4c55-9c0e-6f6e0a8d7c11")
NOT_KEPT = "namespaces are implicit: labels, annotations and the like of a namespace are not kept"


class _Shape:
    """See `tables.Shape`."""

    name = "Namespace"
    api_version = "v1"
    columns = (Column("STATUS", "status.phase"),)
    named = True


def namespace_document(name: str, revision: int) -> Document:
    return {
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": name, "uid": str(uuid.uuid5(_UIDS, name)), "resourceVersion": str(revision),
            "labels": {"kubernetes.io/metadata.name": name},
        },
        "spec": {}, "status": {"phase": "Active"},
    }  # fmt: skip


class _Namespaces:
    """See `reading.ObjectReader`. A watch tells of a namespace when something in it first changes, and never that it is
    gone: it is there, and only empty."""

    watched = None
    computed = False

    def __init__(self, service: Service, identity: Identity) -> None:
        self._service = service
        self._identity = identity
        self._told: set[str] = set()

    def page(self, query: Query) -> Page:
        names, revision = self._service.namespaces.list(self._identity)
        matches = Matcher(query)
        items = [each for each in (namespace_document(name, revision) for name in names) if matches(each)]
        self._told = set(names)
        return Page(items, revision)

    def packed(self, query: Query) -> None:
        return None

    def told(self, type: str, document: Document) -> Iterable[tuple[str, Document]]:
        metadata = document["metadata"]
        namespace = metadata.get("namespace")
        if not namespace or namespace in self._told or type == "DELETED":
            return ()
        self._told.add(namespace)
        return (("ADDED", namespace_document(namespace, int(metadata["resourceVersion"]))),)


class NamespaceCollection(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        source = _Namespaces(api_of(request).service, identity_of(request))
        query = reading.query_of(request, _Shape.name)
        return await reading.answer(request, source, shown(request, _Shape()), query, "namespaces", "")

    async def post(self, request: Request) -> Response:
        api_of(request).service.access.check(identity_of(request), "create", "namespaces", group="")
        given = await typed_body_of(request, NAMESPACE)
        metadata = given.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if not isinstance(name, str):
            raise InvalidObject("metadata.name: is required", field="metadata.name")
        dry_run(request)
        return await _accepted(request, name, 201, warned=bool(set(metadata or {}) & {"labels", "annotations"}))

    async def method_not_allowed(self, request: Request) -> Response:
        return _refused(request)


class SingleNamespace(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        api, name = api_of(request), request.path_params["name"]
        api.service.access.check(identity_of(request), "get", "namespaces", "", name, group="")
        return await _accepted(request, name, 200)

    async def put(self, request: Request) -> Response:
        return await _changed(request, "update")

    async def patch(self, request: Request) -> Response:
        return await _changed(request, "patch")

    async def method_not_allowed(self, request: Request) -> Response:
        return _refused(request)


async def _changed(request: Request, verb: str) -> Response:
    """What says the same as a create, for those who apply one again."""
    name = request.path_params["name"]
    api_of(request).service.access.check(identity_of(request), verb, "namespaces", "", name, group="")
    return await _accepted(request, name, 200, warned=True)


async def _accepted(request: Request, name: str, code: int, *, warned: bool = False) -> Response:
    api = api_of(request)
    try:
        check_name(name)
    except ValueError as error:
        raise InvalidObject(f"metadata.name: {error}", field="metadata.name") from None
    revision = await api.call(api.service.objects.revision, identity_of(request))
    form = shown(request, _Shape())
    return form.form.response(form.one(namespace_document(name, revision)), code, [NOT_KEPT] if warned else ())


def _refused(request: Request) -> Response:
    return not_allowed(request, "namespaces are implicit, and none can be deleted: delete what is in it")


ROUTES = (
    Route("/api/v1/namespaces", NamespaceCollection),
    Route("/api/v1/namespaces/{name}", SingleNamespace),
)
