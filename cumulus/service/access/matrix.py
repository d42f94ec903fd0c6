"""What each role may do, as data: resource x verb -> the least role.

Kinds say it in their registry entry (`Kind.readers`, `Kind.writers`). What is no kind stands in `OTHERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cumulus.resources.key import GROUP
from cumulus.resources.kind import Kind
from cumulus.resources.registry import KINDS
from cumulus.resources.roles import Role

READ = ("get", "list", "watch")
CONNECT = ("get", "create")
"""What Kubernetes' clients ask for where a connection is made."""
WRITE = ("create", "update", "patch", "delete", "deletecollection")


class Resource(NamedTuple):
    """What is asked for, with Kubernetes' words for it. `verbs`: the least role for each verb that there is; None:
    everybody who is known. `namespaced`: the role counts in the namespace of what is asked for."""

    name: str
    group: str
    namespaced: bool
    verbs: Mapping[str, Role | None]


def _all(verbs: tuple[str, ...], role: Role | None) -> dict[str, Role | None]:
    return dict.fromkeys(verbs, role)


def _of(kind: Kind) -> tuple[Resource, Resource]:
    """The kind, and its status, which controllers write."""
    status = {"get": kind.readers, "update": Role.ADMIN, "patch": Role.ADMIN}
    return (
        Resource(kind.plural, GROUP, kind.namespaced, _all(READ, kind.readers) | _all(WRITE, kind.writers)),
        Resource(f"{kind.plural}/status", GROUP, kind.namespaced, status),
    )


_ANYBODY = None
OTHERS: tuple[Resource, ...] = (
    Resource("gpujobs/log", GROUP, True, {"get": Role.VIEWER}),
    Resource("gpujobs/lease", GROUP, True, {"update": Role.USER}),
    Resource("gpujobs/rerun", GROUP, True, {"create": Role.USER}),
    Resource("gpujobs/checkpoints", GROUP, True, {"list": Role.VIEWER, "get": Role.USER, "delete": Role.USER}),
    Resource("gpujobs/call", GROUP, True, {"get": Role.VIEWER}),
    Resource("blobs", GROUP, False, {"get": _ANYBODY, "create": _ANYBODY}),
    Resource("secrets", "", True, _all(("get", "list"), Role.VIEWER) | _all(WRITE, Role.USER)),
    Resource("events", "", True, _all(READ, Role.VIEWER)),
    Resource("pods", "", True, _all(READ, Role.VIEWER)),
    Resource("pods/log", "", True, {"get": Role.VIEWER}),
    Resource("pods/exec", "", True, _all(CONNECT, Role.USER)),
    Resource("pods/attach", "", True, _all(CONNECT, Role.USER)),
    Resource("pods/portforward", "", True, _all(CONNECT, Role.USER)),
    Resource("nodes", "", False, _all(READ, _ANYBODY)),
    Resource("namespaces", "", False, _all((*READ, "create", "update", "patch"), _ANYBODY)),
    Resource("systemsecrets", GROUP, False, _all(("list", *WRITE), Role.ADMIN)),
    Resource("workers", GROUP, False, {"get": Role.ADMIN, "create": Role.ADMIN, "update": Role.ADMIN}),
    Resource("swarms", GROUP, False, {"get": Role.VIEWER, "create": Role.ADMIN, "update": Role.ADMIN}),
    Resource("swarms/invitation", GROUP, False, {"get": Role.ADMIN}),
    Resource("swarms/images", GROUP, False, {"create": Role.ADMIN}),
    Resource("backups", GROUP, False, {"create": Role.ADMIN}),
    Resource("metrics", GROUP, False, {"get": Role.VIEWER}),
    Resource(
        "tokens", GROUP, False, {"get": Role.ADMIN, "list": Role.ADMIN, "create": Role.ADMIN, "delete": Role.ADMIN}
    ),
    Resource("certificates", GROUP, False, {"list": Role.ADMIN, "delete": Role.ADMIN}),
    Resource("selfsubjectaccessreviews", "authorization.k8s.io", False, {"create": _ANYBODY}),
    Resource("selfsubjectrulesreviews", "authorization.k8s.io", False, {"create": _ANYBODY}),
    Resource("selfsubjectreviews", "authentication.k8s.io", False, {"create": _ANYBODY}),
)
"""`tokens` are those of others: each user makes, lists and revokes their own. `certificates` are
those of clients, and to delete one is to revoke it. `gpujobs/call` is what a call gave back,
for its submitter alone; `blobs` are each user's own, and may be made by those who may make jobs somewhere. `pods/exec`
and the like are for the submitter of the job, and for admins (see `Guard.why_not_entered`)."""

RESOURCES: tuple[Resource, ...] = (*(resource for kind in KINDS for resource in _of(kind)), *OTHERS)

_BY_NAME: dict[tuple[str, str], Resource] = {(r.group, r.name): r for r in RESOURCES}
_FIRST: dict[str, Resource] = {r.name: r for r in reversed(RESOURCES)}


def find(name: str, group: str | None = None) -> Resource | None:
    """The resource `gpujobs` or `gpujobs/log`; without a group the first of that name."""
    return _FIRST.get(name) if group is None else _BY_NAME.get((group, name))
