"""`/openapi/v3`: an index, and for each group and version a document with its paths and schemas.

`kubectl explain` shows them; `kubectl apply` looks whether a kind can be patched, and with which parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import RedirectResponse
from starlette.routing import Route

from cumulus import __version__
from cumulus.errors import NotFound
from cumulus.resources.key import GROUP
from cumulus.resources.openapi import (
    GVK,
    META,
    OpenApiSchema,
    definition_name,
    definitions,
    list_schema,
    meta_definitions,
    ref,
)
from cumulus.resources.registry import BY_NAME
from cumulus.server.http.api import api_of
from cumulus.server.http.json_response import cached_response, etag
from cumulus.server.http.kubernetes.bodies import WRITTEN
from cumulus.server.http.kubernetes.groups import ApiResource, api_groups, group_version
from cumulus.server.http.kubernetes.patching import PATCHES

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_YEAR = 365 * 24 * 3600


async def index(request: Request) -> Response:
    """Where the documents are. Their addresses change with what they say."""
    return cached_response(request, await api_of(request).call(_index))


async def document(request: Request) -> Response:
    """One document. It may be kept for ever where the address has its hash."""
    path = request.url.path.removeprefix("/openapi/v3/").rstrip("/")
    # The first time the models' schemas are made, which takes a moment.
    found = (await api_of(request).call(_bodies)).get(path)
    if found is None:
        raise NotFound("the server could not find the requested resource")
    wanted = request.query_params.get("hash")
    if wanted is None:
        return cached_response(request, found)
    if wanted != etag(found):
        return RedirectResponse(_address(path, found), 301)
    return cached_response(request, found, headers={"cache-control": f"public, immutable, max-age={_YEAR}"})


@cache
def _index() -> bytes:
    paths = {path: {"serverRelativeURL": _address(path, body)} for path, body in _bodies().items()}
    return orjson.dumps({"paths": paths})


def _address(path: str, body: bytes) -> str:
    return f"/openapi/v3/{path}?hash={etag(body)}"


@cache
def _bodies() -> dict[str, bytes]:
    """By path: apis/cumulus.dev/v1alpha1, api/v1."""
    return {
        f"{'apis' if group else 'api'}/{group_version(group, version)}": orjson.dumps(made)
        for (group, version), resources in api_groups().items()
        if resources
        for made in (_document(group, version, resources),)
    }


def _document(group: str, version: str, resources: Sequence[ApiResource]) -> dict[str, Any]:
    schemas = meta_definitions()
    paths: dict[str, Any] = {}
    for resource in resources:
        schemas |= _schemas(group, version, resource)
        paths |= dict(_Paths(group, version, resource).all())
    return {
        "openapi": "3.0.0",
        "info": {"title": "Cumulus", "version": __version__},
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def _schemas(group: str, version: str, resource: ApiResource) -> dict[str, OpenApiSchema]:
    """Of a kind of ours all its fields. Of Kubernetes' own that it is an object: its documentation is Kubernetes'."""
    kind = BY_NAME.get(resource.kind)
    if group == GROUP and kind is not None:
        return definitions(kind)
    gvk = {"group": group, "version": version, "kind": resource.kind}
    name = _name(group, version, resource)
    plain = {"type": "object", "description": f"Kubernetes' {resource.kind}.",
             "x-kubernetes-preserve-unknown-fields": True, GVK: [gvk]}  # fmt: skip
    return {name: plain, f"{name}List": list_schema(resource.kind, name, gvk)}


def _name(group: str, version: str, resource: ApiResource) -> str:
    if group == GROUP and resource.kind in BY_NAME:
        return definition_name(resource.kind)
    return f"io.k8s.api.{group.split('.')[0] or 'core'}.{version}.{resource.kind}"


class _Paths:
    """The paths of one resource, with the verbs that it has."""

    def __init__(self, group: str, version: str, resource: ApiResource) -> None:
        self._resource = resource
        self._root = f"/{'apis' if group else 'api'}/{group_version(group, version)}"
        self._gvk = {"group": group, "version": version, "kind": resource.kind}
        self._tag = f"{_camel(group) or 'core'}_{version}"
        self._id = f"{_camel(group, upper=True) or 'Core'}{version.title()}"
        self._object = ref(_name(group, version, resource))
        self._list = ref(f"{_name(group, version, resource)}List")

    def all(self) -> Iterator[tuple[str, Any]]:
        resource, inside = self._resource, self._resource.namespaced
        scope = [_path("namespace", "The namespace of the objects.")] if inside else []
        base = (
            f"{self._root}/namespaces/{{namespace}}/{resource.plural}" if inside else f"{self._root}/{resource.plural}"
        )
        of = f"Namespaced{resource.kind}" if inside else resource.kind
        if found := dict(self._collection(of)):
            yield base, {**found, "parameters": scope}
        named = [_path("name", f"The name of the {resource.kind}."), *scope]
        if found := dict(self._single(of, resource.verbs, PATCHES)):
            yield f"{base}/{{name}}", {**found, "parameters": named}
        for sub in resource.subresources:
            if sub.name == "status":
                found = dict(self._single(f"{of}{sub.name.title()}", sub.verbs, PATCHES))
                yield f"{base}/{{name}}/{sub.name}", {**found, "parameters": named}
        if inside and "list" in resource.verbs:
            everywhere = f"{resource.kind}ForAllNamespaces"
            yield f"{self._root}/{resource.plural}", {"get": self._lists(everywhere), "parameters": []}

    def _collection(self, of: str) -> Iterator[tuple[str, Any]]:
        verbs = self._resource.verbs
        if "list" in verbs:
            yield "get", self._lists(of)
        if "create" in verbs:
            yield "post", self._operation("post", f"create{self._id}{of}", _WRITING, self._object,
                                          codes=(200, 201), body=(WRITTEN, self._object))  # fmt: skip
        if "deletecollection" in verbs:
            yield "delete", self._operation(
                "deletecollection", f"delete{self._id}Collection{of}", (*_SELECTING, *_DELETING), self._list,
                body=(WRITTEN, ref(f"{META}.DeleteOptions")), needs_body=False,
            )  # fmt: skip

    def _single(self, of: str, verbs: Sequence[str], patches: Iterable[str]) -> Iterator[tuple[str, Any]]:
        if "get" in verbs:
            yield "get", self._operation("get", f"read{self._id}{of}", (), self._object)
        if "update" in verbs:
            yield "put", self._operation("put", f"replace{self._id}{of}", _WRITING, self._object,
                                         codes=(200, 201), body=(WRITTEN, self._object))  # fmt: skip
        if "patch" in verbs:
            yield "patch", self._operation("patch", f"patch{self._id}{of}", _PATCHING, self._object,
                                           codes=(200, 201), body=(patches, ref(f"{META}.Patch")))  # fmt: skip
        if "delete" in verbs:
            yield "delete", self._operation(
                "delete", f"delete{self._id}{of}", _DELETING, ref(f"{META}.Status"), codes=(200, 202),
                body=(WRITTEN, ref(f"{META}.DeleteOptions")), needs_body=False,
            )  # fmt: skip

    def _lists(self, of: str) -> OpenApiSchema:
        return self._operation("list", f"list{self._id}{of}", (*_SELECTING, *_WATCHING), self._list)

    def _operation(
        self, action: str, id: str, parameters: Sequence[OpenApiSchema], answer: OpenApiSchema, *,
        codes: Sequence[int] = (200,), body: tuple[Iterable[str], OpenApiSchema] | None = None, needs_body: bool = True,
    ) -> OpenApiSchema:  # fmt: skip
        content = {type: {"schema": answer} for type in WRITTEN}
        made: OpenApiSchema = {
            "tags": [self._tag], "description": f"{_ACTIONS[action]} {self._resource.kind}", "operationId": id,
            "parameters": list(parameters),
            "responses": {
                **{str(code): {"description": _CODES[code], "content": content} for code in codes},
                "401": {"description": "Unauthorized"},
            },
            "x-kubernetes-action": action, GVK: self._gvk,
        }  # fmt: skip
        if body is not None:
            types, schema = body
            made["requestBody"] = {"content": {type: {"schema": schema} for type in types}}
            if needs_body:
                made["requestBody"]["required"] = True
        return made


_ACTIONS = {
    "list": "list or watch objects of kind",
    "post": "create a",
    "put": "replace the specified",
    "get": "read the specified",
    "patch": "partially update the specified",
    "delete": "delete a",
    "deletecollection": "delete collection of",
}
_CODES = {200: "OK", 201: "Created", 202: "Accepted"}


def _camel(group: str, *, upper: bool = False) -> str:
    words = group.split(".") if group else []
    joined = "".join(word.title() for word in words)
    return joined if upper else joined[:1].lower() + joined[1:]


def _path(name: str, description: str) -> OpenApiSchema:
    return {"name": name, "in": "path", "required": True, "description": description,
            "schema": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}}  # fmt: skip


def _query(name: str, description: str, type: str = "string", **more: Any) -> OpenApiSchema:
    return {"name": name, "in": "query", "description": description, "schema": {"type": type, **more}}


_DRY_RUN = _query("dryRun", "All: check everything, and change nothing.", enum=["All"])
_MANAGER = _query("fieldManager", "Who sets the fields, for server-side apply.", maxLength=128)
_VALIDATION = _query(
    "fieldValidation", "What becomes of unknown and repeated fields. Strict refuses the request; Warn, the default, "
    "leaves them out with a warning; Ignore leaves them out.", enum=["Strict", "Warn", "Ignore"],
)  # fmt: skip
_WRITING = (_DRY_RUN, _MANAGER, _VALIDATION)
_PATCHING = (*_WRITING, _query("force", "Take over fields that other managers own; for apply.", "boolean"))
_DELETING = (
    _DRY_RUN,
    _query("gracePeriodSeconds", "How long a job's processes have at most to end.", "integer", minimum=0),
    _query("propagationPolicy", "What becomes of the objects that belong to the deleted one: they go, or stay.",
           enum=["Background", "Foreground", "Orphan"]),
)  # fmt: skip
_SELECTING = (
    _query("continue", "The continue of the page before."),
    _query("fieldSelector", "Only objects with these values in their fields: status.phase=Running."),
    _query("labelSelector", "Only objects with these labels: team=vision,stage in (dev,test)."),
    _query("limit", "How many objects a page has at most.", "integer", minimum=0),
    _query("resourceVersion", "A list at least as new, or with resourceVersionMatch=Exact of just this revision; a "
           "watch of what comes after."),
    _query("resourceVersionMatch", "How resourceVersion is meant.", enum=["Exact", "NotOlderThan"]),
)  # fmt: skip
_WATCHING = (
    _query("allowWatchBookmarks", "Send an event now and then that only says how far the watch is.", "boolean"),
    _query("sendInitialEvents", "Begin the watch with the objects that there are.", "boolean"),
    _query("timeoutSeconds", "End the watch after this time.", "integer", minimum=0),
    _query("watch", "Send what changes, instead of a list.", "boolean"),
)

ROUTES = (
    Route("/openapi/v3", index),
    Route("/openapi/v3/", index),
    Route("/openapi/v3/{path:path}", document),
)
