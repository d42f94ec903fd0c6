"""The kinds of patch, by the media type of the request's body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cumulus.errors import InvalidObject, NotSupported
from cumulus.resources.key import Document, Key
from cumulus.server.http.kubernetes import bodies
from cumulus.server.http.kubernetes.field_validation import FieldValidation
from cumulus.server.http.kubernetes.requests import flag_in

if TYPE_CHECKING:
    from cumulus.answers.objects import PatchType
    from cumulus.service.identity import Identity
    from cumulus.service.service import Service


@dataclass(frozen=True, slots=True)
class PatchRequest:
    """One PATCH of one object. `parameters`: those of the query that the kinds of patch have of their own."""

    identity: Identity
    key: Key
    body: bytes
    dry_run: bool
    status: bool
    """Of status alone: the subresource."""
    validation: FieldValidation
    field_manager: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Patched:
    """The object after it. `created`: there was none."""

    document: Document
    created: bool = False


Patch = Callable[["Service", PatchRequest], Patched]
"""Called in a thread."""


def _merge(service: Service, request: PatchRequest) -> Patched:
    patch = bodies.parse(request.body)
    request.validation.body(request.body)
    return _patched(service, request, patch, "merge")


def _json(service: Service, request: PatchRequest) -> Patched:
    return _patched(service, request, bodies.parse(request.body), "json")


def _patched(service: Service, request: PatchRequest, patch: object, type: PatchType) -> Patched:
    identity, key, dry_run = request.identity, request.key, request.dry_run
    if request.status:
        return Patched(service.objects.patch_status(identity, key, patch, type=type, dry_run=dry_run))
    return Patched(
        service.objects.patch(
            identity, key, patch, type=type, field_manager=request.field_manager, dry_run=dry_run,
            on_unknown=request.validation.take,
        )
    )  # fmt: skip


def _apply(service: Service, request: PatchRequest) -> Patched:
    if request.status:
        raise NotSupported("a status cannot be applied: patch it, or replace it")
    if not request.parameters.get("fieldManager"):
        raise InvalidObject("fieldManager: Required value: is required for apply patch", field="fieldManager")
    # JSON is YAML too, and most clients send it.
    as_json = request.body.lstrip().startswith(b"{")
    config = bodies.parse(request.body, bodies.JSON if as_json else bodies.YAML)
    if as_json:
        request.validation.body(request.body)
    return Patched(
        *service.objects.apply_patch(
            request.identity, request.key, config, field_manager=request.field_manager,
            force=flag_in(request.parameters, "force"), dry_run=request.dry_run,
            on_unknown=request.validation.take,
        )
    )  # fmt: skip


PATCHES: Mapping[str, Patch] = {
    "application/merge-patch+json": _merge,
    "application/json-patch+json": _json,
    "application/apply-patch+yaml": _apply,
}
"""Strategic merge patch is not among them, as for every custom resource of Kubernetes: kubectl then sends another."""
