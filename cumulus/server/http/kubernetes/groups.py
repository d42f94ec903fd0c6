"""The groups, versions and resources of the API, as data: discovery, OpenAPI and reviews read them here.

Those of our own group are the registry's kinds; the others are what clients of Kubernetes ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from cumulus.resources.key import GROUP, VERSION
from cumulus.resources.kind import Kind
from cumulus.resources.registry import KINDS
from cumulus.server.http.kubernetes.messages import AUTHENTICATION, AUTHORIZATION, EVENTS
from cumulus.service.access.matrix import READ, WRITE, GuardedResource, find

ALL = tuple(sorted((*READ, *WRITE)))


@dataclass(frozen=True)
class Subresource:
    """`status` of `gpujobs`. It answers with objects of `kind`."""

    name: str
    kind: str
    verbs: tuple[str, ...]


@dataclass(frozen=True)
class ApiResource:
    """One resource: what its path is called, the kind it answers with, and what can be asked of it."""

    plural: str
    kind: str
    namespaced: bool
    verbs: tuple[str, ...]
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[Subresource, ...] = ()

    @property
    def singular(self) -> str:
        return self.kind.lower()


RESERVED = frozenset(
    {
        "events", "event", "ev", "namespaces", "namespace", "ns", "nodes", "node", "no", "pods", "pod", "po", "secrets",
        "secret",
    }
)  # fmt: skip
"""What kubectl takes for a resource of core/v1: `nodes` means that one, as on every server."""


@cache
def api_groups() -> Mapping[tuple[str, str], tuple[ApiResource, ...]]:
    """The resources by group ("" for core) and version."""
    return {
        ("", "v1"): (
            _other("", "events", "Event", short=("ev",)),
            _other("", "namespaces", "Namespace", short=("ns",)),
            _other("", "nodes", "Node", short=("no",)),
            _other("", "pods", "Pod", short=("po",), subresources=("log", "exec", "attach", "portforward")),
            _other("", "secrets", "Secret"),
        ),
        (GROUP, VERSION): tuple(_resource(kind) for kind in KINDS),
        (EVENTS, "v1"): (_other(EVENTS, "events", "Event"),),
        (AUTHENTICATION, "v1"): (_other(AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview"),),
        (AUTHORIZATION, "v1"): (
            _other(AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
            _other(AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
        ),
    }


def group_version(group: str, version: str) -> str:
    """`cumulus.dev/v1alpha1`, `v1` for core."""
    return f"{group}/{version}" if group else version


def _other(
    group: str, plural: str, kind: str, *, short: tuple[str, ...] = (), subresources: tuple[str, ...] = ()
) -> ApiResource:
    """One that is no kind of the registry. Its verbs are those of the matrix."""

    def of_matrix(name: str) -> GuardedResource:
        found = find(name, group)
        assert found is not None
        return found

    resource = of_matrix(plural)
    below = tuple(Subresource(name, kind, tuple(of_matrix(f"{plural}/{name}").verbs)) for name in subresources)
    return ApiResource(plural, kind, resource.namespaced, tuple(resource.verbs), short, subresources=below)


def has_status(kind: Kind) -> bool:
    """Whether the status of its objects is a subresource."""
    return kind.user_made and "status" in kind.model().model_fields


def _resource(kind: Kind) -> ApiResource:
    return ApiResource(
        kind.plural,
        kind.name,
        kind.namespaced,
        ALL if kind.user_made else READ,
        tuple(word for word in kind.short if word not in RESERVED),
        ("all",) if kind.work else (),
        (Subresource("status", kind.name, ("get", "patch", "update")),) if has_status(kind) else (),
    )
