"""What the API has: `/version`, `/api`, `/apis` and below, in one document where the client can read that.

kubectl asks for `/api` and `/apis` as an APIGroupDiscoveryList, which holds all. Older clients ask for the plain lists,
and then for each group and version.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson
from starlette.routing import Route

from cumulus import __version__
from cumulus.server.http.accept import accepted
from cumulus.server.http.json_response import cached_response, json_response
from cumulus.server.http.kubernetes.groups import ApiResource, Subresource, api_groups, group_version

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.resources.key import Document

KUBERNETES = ("1", "32")
"""The version of Kubernetes whose clients this is tested with."""
AGGREGATED = ("v2", "v2beta1")
"""Versions of apidiscovery.k8s.io that clients ask for."""


async def version(request: Request) -> Response:
    major, minor = KUBERNETES
    return json_response(
        {
            "major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.0+cumulus-{__version__}",
            "gitCommit": "", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "",
            "compiler": platform.python_implementation(), "platform": f"linux/{platform.machine()}",
        }
    )  # fmt: skip


async def api(request: Request) -> Response:
    """The versions of core."""
    return _aggregated(request, core=True) or _plain(request, "APIVersions", versions=["v1"])


async def apis(request: Request) -> Response:
    """The groups but core."""
    return _aggregated(request, core=False) or _plain(
        request, "APIGroupList", groups=[_group(*found) for found in api_groups() if found[0]]
    )


async def group(request: Request) -> Response:
    """One group and its version."""
    return _plain(request, "APIGroup", **_group(*_of_path(request)))


async def resources(request: Request) -> Response:
    """The resources of one group and version."""
    found = _of_path(request)
    return _plain(
        request, "APIResourceList", groupVersion=group_version(*found),
        resources=[entry for resource in api_groups()[found] for entry in _entries(resource)],
    )  # fmt: skip


def _routes() -> Iterator[Route]:
    for slash in ("", "/"):
        yield Route(f"/version{slash}", version)
        yield Route(f"/api{slash}", api)
        yield Route(f"/apis{slash}", apis)
        for name, number in api_groups():
            below = f"/apis/{name}" if name else "/api"
            if name:
                yield Route(f"{below}{slash}", group)
            yield Route(f"{below}/{number}{slash}", resources)


def _of_path(request: Request) -> tuple[str, str]:
    """The group and version that a path of `_routes` names."""
    words = request.url.path.strip("/").split("/")
    name = words[1] if words[0] == "apis" else ""
    return next(found for found in api_groups() if found[0] == name)


def _plain(request: Request, kind: str, **fields: Any) -> Response:
    return cached_response(request, orjson.dumps({"kind": kind, "apiVersion": "v1", **fields}))


def _group(name: str, number: str) -> Document:
    entry = {"groupVersion": group_version(name, number), "version": number}
    return {"name": name, "versions": [entry], "preferredVersion": entry}


def _entries(resource: ApiResource) -> Iterator[Document]:
    entry = {
        "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
        "kind": resource.kind, "verbs": resource.verbs,
    }  # fmt: skip
    yield {**entry, **_lists("shortNames", resource.short), **_lists("categories", resource.categories)}
    for sub in resource.subresources:
        yield {
            "name": f"{resource.plural}/{sub.name}", "singularName": "", "namespaced": resource.namespaced,
            "kind": sub.kind, "verbs": sub.verbs,
        }  # fmt: skip


def _lists(name: str, words: tuple[str, ...]) -> Document:
    return {name: words} if words else {}


def _aggregated(request: Request, *, core: bool) -> Response | None:
    """The whole as one document; None where the client did not ask for that first."""
    for media_type, options in accepted(request.headers.get("accept", "")):
        if options.get("as") == "APIGroupDiscoveryList" and options.get("v") in AGGREGATED:
            number = options["v"]
            sent = f"application/json;g=apidiscovery.k8s.io;v={number};as=APIGroupDiscoveryList"
            return cached_response(request, _discovery_list(number, core), media_type=sent)
        if media_type == "application/json" and not options:
            return None
    return None


@cache
def _discovery_list(number: str, core: bool) -> bytes:
    groups = [
        {
            "metadata": {"name": name, "creationTimestamp": None},
            "versions": [
                {
                    "version": version, "freshness": "Current",
                    "resources": [_discovered(name, version, resource) for resource in found],
                }
            ],
        }
        for (name, version), found in api_groups().items()
        if (name == "") == core
    ]  # fmt: skip
    return orjson.dumps(
        {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"apidiscovery.k8s.io/{number}",
            "metadata": {},
            "items": groups,
        }
    )


def _discovered(group: str, version: str, resource: ApiResource) -> Document:
    def answers(of: ApiResource | Subresource) -> Document:
        return {"group": group, "version": version, "kind": of.kind}

    subresources = tuple(
        {"subresource": sub.name, "responseKind": answers(sub), "verbs": sub.verbs} for sub in resource.subresources
    )
    return {
        "resource": resource.plural, "responseKind": answers(resource),
        "scope": "Namespaced" if resource.namespaced else "Cluster", "singularResource": resource.singular,
        "verbs": resource.verbs, **_lists("shortNames", resource.short), **_lists("categories", resource.categories),
        **({"subresources": subresources} if subresources else {}),
    }  # fmt: skip


ROUTES = tuple(_routes())
