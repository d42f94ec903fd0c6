"""Objects of our own group over HTTP, as kubectl asks for them: `/apis/cumulus.dev/v1alpha1/…`.

Every handler reads the request, calls the service as who asks, and answers in the form that the client accepts.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.endpoints import HTTPEndpoint
from starlette.routing import Route

from cumulus.errors import InvalidObject, NotFound, UsageError
from cumulus.resources.columns import AllOwned
from cumulus.resources.key import API_VERSION, GROUP, NAME_LETTERS, Document, Key
from cumulus.resources.query import Query
from cumulus.server.http.api import api_of, identity_of
from cumulus.server.http.json_response import json_response
from cumulus.server.http.kubernetes.bodies import media_type
from cumulus.server.http.kubernetes.delete_options import delete_options_of
from cumulus.server.http.kubernetes.field_validation import FieldValidation
from cumulus.server.http.kubernetes.groups import has_status
from cumulus.server.http.kubernetes.patching import PATCHES, PatchRequest
from cumulus.server.http.kubernetes.reading import Stored, answer, query_of
from cumulus.server.http.kubernetes.representation import Form, form_of
from cumulus.server.http.kubernetes.requests import (
    AT_ONCE,
    dry_run,
    field_manager,
    flag,
    key_of,
    kind_of,
    namespace_of,
    object_of,
    patch_body_of,
)
from cumulus.server.http.kubernetes.rows import KeptRows
from cumulus.server.http.kubernetes.tables import Shown
from cumulus.server.http.status import success
from cumulus.service.objects import Creation

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.resources.kind import Kind
    from cumulus.server.api import Api


class Collection(HTTPEndpoint):
    """The objects of a kind, in one namespace or in all."""

    async def get(self, request: Request) -> Response:
        kind = kind_of(request)
        source = Stored(api_of(request).service, identity_of(request), kind.name)
        shown = _shown(request, listed=not flag(request, "watch"))
        return await answer(request, source, shown, query_of(request, kind.name), kind.plural, GROUP)

    async def post(self, request: Request) -> Response:
        return await _create(request)

    async def delete(self, request: Request) -> Response:
        return await _delete_collection(request)


class Single(HTTPEndpoint):
    """One object."""

    async def get(self, request: Request) -> Response:
        return await read(request)

    async def put(self, request: Request) -> Response:
        return await _update(request)

    async def patch(self, request: Request) -> Response:
        return await _patch(request)

    async def delete(self, request: Request) -> Response:
        return await _delete(request)


class Status(HTTPEndpoint):
    """The status of one object, which controllers write."""

    async def get(self, request: Request) -> Response:
        _check_status(request)
        return await read(request)

    async def put(self, request: Request) -> Response:
        _check_status(request)
        api, shown = api_of(request), _shown(request)
        document = await object_of(request, kind_of(request), FieldValidation(request))
        _check_name(document, key_of(request))
        update = api.service.objects.update_status
        return await _one(api, shown, await api.call(update, identity_of(request), document, dry_run=dry_run(request)))

    async def patch(self, request: Request) -> Response:
        _check_status(request)
        return await _patch(request, status=True)


async def read(request: Request) -> Response:
    key = key_of(request)
    api, shown = api_of(request), _shown(request)
    return await _one(api, shown, await api.call(api.service.objects.get, identity_of(request), key))


async def _create(request: Request) -> Response:
    api, kind, shown, validation = api_of(request), kind_of(request), _shown(request), FieldValidation(request)
    document = await object_of(request, kind, validation)
    prefix = document["metadata"].get("generateName")
    if prefix and not document["metadata"].get("name"):
        if not isinstance(prefix, str):
            raise InvalidObject("metadata.generateName: must be text", field="metadata.generateName")
        ending = "".join(secrets.choice(NAME_LETTERS) for _ in range(5))
        document["metadata"]["name"] = f"{prefix[:248]}{ending}"
    document["metadata"].pop("generateName", None)
    asked = Creation(
        identity_of(request), document, field_manager(request), dry_run(request), on_unknown=validation.take
    )
    made = await api.creations.create(asked, alone=_takes_long(request, kind, document))
    return await _one(api, shown, made, 201, validation.found)


def _takes_long(request: Request, kind: Kind, document: Document) -> bool:
    """Whether nobody else's object should wait for this one: it is large, or its blobs are looked for, in S3 say."""
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()) or int(length) > AT_ONCE:
        return True
    return kind.blobs is not None and any(True for _ in kind.blobs(document))


async def _update(request: Request) -> Response:
    api, shown, validation = api_of(request), _shown(request), FieldValidation(request)
    document = await object_of(request, kind_of(request), validation)
    _check_name(document, key_of(request))
    changed = await api.call(
        api.service.objects.update, identity_of(request), document, field_manager=field_manager(request),
        dry_run=dry_run(request), on_unknown=validation.take,
    )  # fmt: skip
    return await _one(api, shown, changed, 200, validation.found)


async def _patch(request: Request, *, status: bool = False) -> Response:
    api, key, shown, validation = api_of(request), key_of(request), _shown(request), FieldValidation(request)
    body = await patch_body_of(request, PATCHES)
    asked = PatchRequest(
        identity_of(request), key, body, dry_run(request), status, validation, field_manager(request),
        request.query_params,
    )  # fmt: skip
    patched = await api.call(PATCHES[media_type(request)], api.service, asked)
    return await _one(api, shown, patched.document, 201 if patched.created else 200, validation.found)


async def _delete(request: Request) -> Response:
    api, key, shown = api_of(request), key_of(request), _shown(request)
    options = await delete_options_of(request)
    deleted = await api.call(
        api.service.objects.delete, identity_of(request), key, uid=options.uid,
        resource_version=options.resource_version, propagation=options.propagation,
        grace_seconds=options.grace_seconds, dry_run=options.dry_run,
    )  # fmt: skip
    return await _deleted(request, shown, deleted)


async def _delete_collection(request: Request) -> Response:
    api, kind, shown = api_of(request), kind_of(request), _shown(request, listed=True)
    query = query_of(request, kind.name)
    if kind.namespaced and query.namespace is None:
        raise UsageError(f"{kind.plural} are deleted in one namespace at a time")
    options = await delete_options_of(request)
    page = await api.call(
        api.service.objects.delete_collection, identity_of(request), query, propagation=options.propagation,
        grace_seconds=options.grace_seconds, dry_run=options.dry_run,
    )  # fmt: skip
    metadata = {"resourceVersion": str(page.revision)}
    return await api.call(lambda: shown.form.response(shown.many(page.items, metadata)))


async def _deleted(request: Request, shown: Shown, document: Document) -> Response:
    """The object while finalizers hold it, else what says that it is gone."""
    if document["metadata"].get("deletionTimestamp") and document["metadata"].get("finalizers"):
        return await _one(api_of(request), shown, document)
    kind, metadata = kind_of(request), document["metadata"]
    details = {"name": metadata["name"], "group": GROUP, "kind": kind.plural, "uid": metadata["uid"]}
    return json_response(success(details))


async def _one(api: Api, shown: Shown, document: Document, code: int = 200, warnings: Sequence[str] = ()) -> Response:
    if shown.form == Form():
        return shown.form.response(document, code, warnings)
    # Cells may ask the service for what belongs to a row.
    return await api.call(lambda: shown.form.response(shown.one(document), code, warnings))


def _check_status(request: Request) -> None:
    """Raises NotFound for a kind without one."""
    if not has_status(kind_of(request)):
        raise NotFound("the server could not find the requested resource")


def _check_name(document: Document, key: Key) -> None:
    if document["metadata"].setdefault("name", key.name) != key.name:
        raise UsageError("the name of the object does not match the name on the URL")


def _shown(request: Request, *, listed: bool = False) -> Shown:
    """`listed`: many objects at one moment, so that what belongs to them is read once for all."""
    kind, api, identity = kind_of(request), api_of(request), identity_of(request)

    def read(name: str, namespace: str | None, owner_uid: str | None = None) -> Sequence[Document]:
        return api.service.objects.list(identity, Query(name, namespace, owner_uid=owner_uid)).items

    def owned(owner: Document) -> Sequence[Document]:
        metadata = owner["metadata"]
        return read(kind.owns, metadata.get("namespace"), metadata["uid"]) if kind.owns else ()

    all_owned = AllOwned([kind], lambda name: read(name, namespace_of(request)))
    include = request.query_params.get("includeObject", "")
    belonging = all_owned if listed else owned
    return Shown(
        kind, form_of(request), include, api.service.clock, belonging, KeptRows(api.table_rows, api.table_runs)
    )


_ROOT = f"/apis/{API_VERSION}"
ROUTES = (
    Route(f"{_ROOT}/namespaces/{{namespace}}/{{plural}}", Collection),
    Route(f"{_ROOT}/namespaces/{{namespace}}/{{plural}}/{{name}}", Single),
    Route(f"{_ROOT}/namespaces/{{namespace}}/{{plural}}/{{name}}/status", Status),
    Route(f"{_ROOT}/{{plural}}", Collection),
    Route(f"{_ROOT}/{{plural}}/{{name}}", Single),
    Route(f"{_ROOT}/{{plural}}/{{name}}/status", Status),
)
