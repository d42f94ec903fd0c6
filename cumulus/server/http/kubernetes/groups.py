"""The groups, versions and resources of the API, as data: discovery, OpenAPI and reviews read them here.

Those of our own group are the registry's kinds. core/v1 is there, since clients ask for it, and has none yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from cumulus.resources.key import GROUP, VERSION
from cumulus.resources.kind import Kind
from cumulus.resources.registry import KINDS
from cumulus.service.access.matrix import READ, WRITE

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
        ("", "v1"): (),
        (GROUP, VERSION): tuple(_resource(kind) for kind in KINDS),
    }


def group_version(group: str, version: str) -> str:
    """`cumulus.dev/v1alpha1`, `v1` for core."""
    return f"{group}/{version}" if group else version


def _resource(kind: Kind) -> ApiResource:
    has_status = "status" in kind.model().model_fields
    return ApiResource(
        kind.plural,
        kind.name,
        kind.namespaced,
        ALL if kind.user_made else READ,
        tuple(word for word in kind.short if word not in RESERVED),
        ("all",) if kind.work else (),
        (Subresource("status", kind.name, ("get",)),) if has_status and kind.user_made else (),
    )
