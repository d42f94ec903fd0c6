"""Secrets of a namespace as core/v1 has them: made, changed, named and deleted. A value is never returned.

So an object has no `data`: the names of its keys are in an annotation. Writing one back as it was read changes nothing.
Labels, annotations and the like are not kept.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.endpoints import HTTPEndpoint
from starlette.routing import Route

from cumulus.errors import InvalidObject, NotFound, UsageError
from cumulus.lib.printable import one_line
from cumulus.resources.key import Document
from cumulus.resources.kind import Column
from cumulus.resources.selectors import Matcher
from cumulus.server.http.api import api_of, identity_of
from cumulus.server.http.json_response import json_response
from cumulus.server.http.kubernetes import bodies, reading
from cumulus.server.http.kubernetes.core.view import not_allowed, shown
from cumulus.server.http.kubernetes.messages import SECRET
from cumulus.server.http.kubernetes.requests import (
    body_of,
    dry_run,
    flag,
    namespace_of,
    parsed,
    patch_body_of,
    typed_body_of,
)
from cumulus.server.http.status import success

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.answers.secrets import SecretKey
    from cumulus.server.http.kubernetes.tables import Shown

KEYS_ANNOTATION = "cumulus.dev/secret-keys"
"""Annotation of a secret: the names of its keys, joined by commas."""
NOT_KEPT = "labels, annotations and the like of a secret are not kept"
NO_WATCH = "secrets can be listed, and not watched"
APPLY = "application/apply-patch+yaml"
PATCHES = ("application/merge-patch+json", "application/strategic-merge-patch+json", APPLY)
"""A secret is only a map, so they all mean the same; but an apply also makes one."""
_KNOWN = frozenset({"apiVersion", "kind", "metadata", "data", "stringData", "type", "immutable"})
_UIDS = uuid.UUID("3f9c4f0b-0a5e-4f0e-9d8a-2b6f0c1c9a55")


class _Shape:
    """See `tables.Shape`."""

    name = "Secret"
    api_version = "v1"
    columns = (
        Column("TYPE", "type"),
        Column("DATA", cell=lambda secret, _: str(len(_key_names(secret)))),
        Column("KEYS", cell=lambda secret, _: ",".join(_key_names(secret)), wide=True),
    )
    named = True


def _key_names(secret: Document) -> list[str]:
    return [name for name in str(secret["metadata"]["annotations"][KEYS_ANNOTATION]).split(",") if name]


def _document(namespace: str, name: str, keys: Sequence[str]) -> Document:
    return {
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "name": name, "namespace": namespace, "uid": str(uuid.uuid5(_UIDS, f"{namespace}/{name}")),
            "annotations": {KEYS_ANNOTATION: ",".join(keys)},
        },
    }  # fmt: skip


def _documents(found: Iterable[SecretKey]) -> list[Document]:
    keys: dict[tuple[str, str], list[str]] = {}
    for each in found:
        keys.setdefault((each.namespace, each.name), []).append(each.key)
    return [_document(*place, names) for place, names in keys.items()]


class SecretCollection(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        if flag(request, "watch"):
            return not_allowed(request, NO_WATCH)
        api, form = api_of(request), shown(request, _Shape())
        found = await _list(request)
        revision = await api.call(api.service.objects.revision, identity_of(request))
        return form.form.response(form.many(found, {"resourceVersion": str(revision)}))

    async def post(self, request: Request) -> Response:
        api, identity, namespace, form = api_of(request), identity_of(request), _namespace(request), _form(request)
        api.service.access.check(identity, "create", "secrets", namespace, group="")
        given = await typed_body_of(request, SECRET)
        name, values = _name(given, namespace), _values(given)
        await api.call(api.service.secrets.create, identity, namespace, name, _texts(values), dry_run=dry_run(request))
        return _answer(form, namespace, name, sorted(values), 201, given)

    async def delete(self, request: Request) -> Response:
        api, identity, namespace, form = api_of(request), identity_of(request), _namespace(request), _form(request)
        api.service.access.check(identity, "deletecollection", "secrets", namespace, group="")
        dry = await _dry_delete(request)
        found = await _list(request)
        for each in found:
            name = each["metadata"]["name"]
            await api.call(api.service.secrets.delete, identity, namespace, name, dry_run=dry)
        return form.form.response(form.many(found, {}))


class SingleSecret(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        api, form, name = api_of(request), _form(request), request.path_params["name"]
        keys = await api.call(api.service.secrets.keys, identity_of(request), _namespace(request), name)
        return _answer(form, _namespace(request), name, keys)

    async def put(self, request: Request) -> Response:
        """The keys that are given, and no others; all as they are where none is, as in what was read."""
        name, namespace = request.path_params["name"], _namespace(request)
        api_of(request).service.access.check(identity_of(request), "update", "secrets", namespace, name, group="")
        given = await typed_body_of(request, SECRET)
        if _name(given, namespace, name) != name:
            raise UsageError("the name of the object does not match the name on the URL")
        return await _change(request, given, replace="data" in given or "stringData" in given)

    async def patch(self, request: Request) -> Response:
        name, namespace = request.path_params["name"], _namespace(request)
        api, identity = api_of(request), identity_of(request)
        api.service.access.check(identity, "patch", "secrets", namespace, name, group="")
        type = bodies.media_type(request)
        given = await parsed(request, await patch_body_of(request, PATCHES), type)
        if not isinstance(given, dict):
            raise UsageError("a patch of a secret is a JSON object")
        if type == APPLY and not await _is_there(request):
            values, form = _values(given), _form(request)
            await api.call(
                api.service.secrets.create, identity, namespace, name, _texts(values), dry_run=dry_run(request)
            )
            return _answer(form, namespace, name, sorted(values), 201, given)
        return await _change(request, given)

    async def delete(self, request: Request) -> Response:
        api, identity, namespace = api_of(request), identity_of(request), _namespace(request)
        name, dry = request.path_params["name"], await _dry_delete(request)
        await api.call(api.service.secrets.delete, identity, namespace, name, dry_run=dry)
        uid = _document(namespace, name, ())["metadata"]["uid"]
        details = {"name": name, "group": "", "kind": "secrets", "uid": uid}
        return json_response(success(details))


async def _list(request: Request) -> list[Document]:
    api = api_of(request)
    matches = Matcher(reading.query_of(request, "Secret"))
    found = await api.call(api.service.secrets.list, identity_of(request), namespace_of(request))
    return [document for document in _documents(found) if matches(document)]


async def _is_there(request: Request) -> bool:
    api, name = api_of(request), request.path_params["name"]
    try:
        await api.call(api.service.secrets.keys, identity_of(request), _namespace(request), name)
    except NotFound:
        return False
    return True


async def _change(request: Request, given: Mapping[str, Any], *, replace: bool = False) -> Response:
    api, identity, namespace, form = api_of(request), identity_of(request), _namespace(request), _form(request)
    name, values = request.path_params["name"], _values(given)
    keys = await api.call(
        api.service.secrets.update, identity, namespace, name, values, replace=replace, dry_run=dry_run(request)
    )
    return _answer(form, namespace, name, keys, 200, given)


async def _dry_delete(request: Request) -> bool:
    given = await body_of(request) or {}
    if not isinstance(given, dict):
        raise UsageError("the options of a delete are a JSON object")
    return dry_run(request, given.get("dryRun"))


def _form(request: Request) -> Shown:
    return shown(request, _Shape())


def _answer(
    form: Shown, namespace: str, name: str, keys: Sequence[str], code: int = 200, given: Mapping[str, Any] = {}
) -> Response:
    metadata = given.get("metadata")
    lost = isinstance(metadata, dict) and any(metadata.get(field) for field in ("labels", "annotations"))
    return form.form.response(form.one(_document(namespace, name, keys)), code, [NOT_KEPT] if lost else ())


def _namespace(request: Request) -> str:
    return str(request.path_params["namespace"])


def _name(given: Mapping[str, Any], namespace: str, default: str | None = None) -> str:
    metadata = given.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    if metadata.get("namespace") not in (None, "", namespace):
        raise UsageError("the namespace of the object does not match the namespace of the request")
    name = metadata.get("name", default)
    if not isinstance(name, str) or not name:
        raise InvalidObject("metadata.name: is required", field="metadata.name")
    return name


def _values(given: Mapping[str, Any]) -> dict[str, str | None]:
    """The keys with their values, as text; None for those that a patch removes. `stringData` wins, as in Kubernetes.
    No message holds a value."""
    if unknown := sorted(set(given) - _KNOWN):
        raise InvalidObject(f"{one_line(unknown[0])}: a secret has no such field", field=unknown[0])
    found: dict[str, str | None] = {}
    for field, read in (("data", _decoded), ("stringData", _plain)):
        values = given.get(field)
        if values is not None and not isinstance(values, dict):
            raise InvalidObject(f"{field}: must be an object", field=field)
        for key, value in (values or {}).items():
            if value is not None and not isinstance(value, str):
                raise InvalidObject(f"{field}.{one_line(key)}: must be text", field=field)
            found[key] = None if value is None else read(f"{field}.{one_line(key)}", value)
    return found


def _texts(values: Mapping[str, str | None]) -> dict[str, str]:
    """What a new secret has. Raises InvalidObject where that is nothing."""
    there = {key: value for key, value in values.items() if value is not None}
    if not there:
        raise InvalidObject("data: a secret has at least one key", field="data")
    return there


def _plain(place: str, value: str) -> str:
    return value


def _decoded(place: str, value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidObject(
            f"{place}: must be the base64 of UTF-8 text", field=place, hint="encode binary values twice"
        ) from None


ROUTES = (
    Route("/api/v1/secrets", SecretCollection, methods=["GET", "HEAD"]),
    Route("/api/v1/namespaces/{namespace}/secrets", SecretCollection),
    Route("/api/v1/namespaces/{namespace}/secrets/{name}", SingleSecret),
)
