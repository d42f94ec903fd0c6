"""What may I do, and who am I? `kubectl auth can-i`, `auth can-i --list` and `auth whoami` ask here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from cumulus.errors import InvalidObject
from cumulus.resources.key import GROUP, Document, Key
from cumulus.server.api import Api
from cumulus.server.http.api import api_of, changes_nothing, identity_of
from cumulus.server.http.json_response import json_response
from cumulus.server.http.kubernetes.messages import ACCESS_REVIEW, RULES_REVIEW, SELF_REVIEW
from cumulus.server.http.kubernetes.requests import BY_PLURAL, typed_body_of
from cumulus.service.access.bindings import EVERYBODY
from cumulus.service.access.matrix import RESOURCES

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from cumulus.server.http.kubernetes.protobuf import Body
    from cumulus.service.access.access import Decision
    from cumulus.service.identity import Identity

EVERYBODYS_PATHS = (
    "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/healthz/*", "/livez", "/livez/*", "/openapi", "/openapi/*",
    "/readyz", "/readyz/*", "/version",
)  # fmt: skip
"""Paths that are no resource's, which everybody may read who is known."""
METRICS = "/metrics"
CHANGES = ("update", "patch", "delete")
"""Verbs that only the submitter of an object and admins may use on it."""
_READ = ("get", "head")


def _route(body: Body, answer: Callable[[Api, Identity, Mapping[str, Any]], Document]) -> Route:
    group, _, version = body.api_version.partition("/")
    plural = f"{body.kind.lower()}s"

    async def review(request: Request) -> Response:
        changes_nothing(request)
        api, identity = api_of(request), identity_of(request)
        api.service.access.check(identity, "create", plural, group=group)
        given = await typed_body_of(request, body)
        status = await api.call(answer, api, identity, _map(given, "spec"))
        return json_response({**given, "metadata": {"creationTimestamp": None}, "status": status}, 201)

    return Route(f"/apis/{group}/{version}/{plural}", review, methods=["POST"])


def _access(api: Api, identity: Identity, spec: Mapping[str, Any]) -> Document:
    asked, path = _map(spec, "resourceAttributes"), _map(spec, "nonResourceAttributes")
    if bool(asked) == bool(path):
        raise InvalidObject(
            "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified", field="spec"
        )
    decision = _may(api, identity, asked) if asked else _may_read(api, identity, path)
    return {"allowed": decision.allowed, "reason": decision.reason}


def _may(api: Api, identity: Identity, asked: Mapping[str, Any]) -> Decision:
    from cumulus.service.access.access import Decision

    names = ("verb", "resource", "subresource", "namespace", "name", "group")
    verb, resource, subresource, namespace, name, group = (_text(asked, field) for field in names)
    whole = f"{resource}/{subresource}" if subresource else resource
    decision = api.service.access.may(identity, verb, whole, namespace, name, None if group == "*" else group)
    kind = BY_PLURAL.get(whole) if group in (GROUP, "*") else None
    if decision.allowed and kind is not None and name and verb in CHANGES:
        refused = api.service.objects.why_not_changed(identity, Key(kind.name, namespace, name))
        return Decision(False, refused) if refused else decision
    return decision


def _may_read(api: Api, identity: Identity, asked: Mapping[str, Any]) -> Decision:
    from cumulus.service.access.access import Decision

    path, verb = _text(asked, "path"), _text(asked, "verb").lower()
    if path == METRICS and verb in _READ:
        return api.service.access.may(identity, "get", "metrics")
    if verb in _READ and any(_covers(each, path) for each in EVERYBODYS_PATHS):
        return Decision(True, "everybody may")
    return api.service.access.may(identity, verb, "*")


def _covers(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path.rstrip("/") == pattern


def _rules(api: Api, identity: Identity, spec: Mapping[str, Any]) -> Document:
    namespace = _text(spec, "namespace")
    if not namespace:
        raise InvalidObject("spec.namespace: is required", field="spec.namespace")
    metrics = api.service.access.may(identity, "get", "metrics").allowed
    paths = [*EVERYBODYS_PATHS, *([METRICS] if metrics else [])]
    return {
        "resourceRules": list(_resource_rules(api, identity, namespace)),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": paths}],
        "incomplete": False,
    }


def _resource_rules(api: Api, identity: Identity, namespace: str) -> Iterator[Document]:
    for each in RESOURCES:
        where = namespace if each.namespaced else ""
        allowed = [
            verb
            for verb in each.verbs
            if api.service.access.may(identity, verb, each.name, where, group=each.group).allowed
        ]
        if allowed:
            yield {"verbs": allowed, "apiGroups": [each.group], "resources": [each.name]}


def _myself(api: Api, identity: Identity, _: Mapping[str, Any]) -> Document:
    uid = {} if identity.uid is None else {"uid": str(identity.uid)}
    return {"userInfo": {"username": identity.name, **uid, "groups": [*identity.groups, EVERYBODY]}}


def _map(given: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    found = given.get(field)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise InvalidObject(f"{field}: must be an object", field=field)
    return found


def _text(given: Mapping[str, Any], field: str) -> str:
    found = given.get(field)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise InvalidObject(f"{field}: must be text", field=field)
    return found


ROUTES = (_route(ACCESS_REVIEW, _access), _route(RULES_REVIEW, _rules), _route(SELF_REVIEW, _myself))
