"""`apply` of many manifests in one transaction. They come as documents; what is wrong is told by their number and the
path of the field, and the client, which has the files, says where that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from cumulus.answers.codec import encode
from cumulus.errors import UsageError
from cumulus.manifest import from_documents
from cumulus.resources.key import Document, Key
from cumulus.server.http.api import api_of, changes_nothing, identity_of
from cumulus.server.http.json_response import json_response
from cumulus.server.http.native.handlers import arguments_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


_MAX_BYTES = 32 * 2**20
"""Of all manifests together."""
_ARGUMENTS: dict[str, Any] = {
    "manifests": list[Document], "dry_run": bool, "prune": str, "prune_limit": int | None,
    "field_manager": str, "force_conflicts": bool, "recreate": bool,
}  # fmt: skip


async def apply(request: Request) -> Response:
    api, identity = api_of(request), identity_of(request)
    arguments = await arguments_of(request, _ARGUMENTS, _MAX_BYTES)
    if "manifests" not in arguments:
        raise UsageError("say which manifests to apply")
    sent = arguments.pop("manifests")

    def applied() -> Any:
        manifests = from_documents(sent)
        return {"value": encode(api.service.objects.apply(identity, manifests, **arguments))}

    return json_response(await api.call(applied))


async def source_diff(request: Request) -> Response:
    api, identity = api_of(request), identity_of(request)
    changes_nothing(request)
    arguments = await arguments_of(request, {"key": Key, "manifests": list[Document]}, _MAX_BYTES)
    if arguments.keys() != {"key", "manifests"}:
        raise UsageError("say which Source, and which manifests")

    def diff() -> Any:
        manifests = from_documents(arguments["manifests"])
        return {"value": encode(api.service.sources.diff(identity, arguments["key"], manifests))}

    return json_response(await api.call(diff))


ROUTES = (
    Route("/cumulus/v1/apply", apply, methods=["POST"]),
    Route("/cumulus/v1/source_diff", source_diff, methods=["POST"]),
)
