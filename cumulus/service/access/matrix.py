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


class GuardedResource(NamedTuple):
    """What is asked for, with Kubernetes' words for it. `verbs`: the least role for each verb that there is; None:
    everybody who is known. `namespaced`: the role counts in the namespace of what is asked for."""

    name: str
    group: str
    namespaced: bool
    verbs: Mapping[str, Role | None]


def _all(verbs: tuple[str, ...], role: Role | None) -> dict[str, Role | None]:
    return dict.fromkeys(verbs, role)


def _of(kind: Kind) -> tuple[GuardedResource, GuardedResource]:
    """The kind, and its status, which controllers write."""
    status = {"get": kind.readers, "update": Role.ADMIN, "patch": Role.ADMIN}
    return (
        GuardedResource(kind.plural, GROUP, kind.namespaced, _all(READ, kind.readers) | _all(WRITE, kind.writers)),
        GuardedResource(f"{kind.plural}/status", GROUP, kind.namespaced, status),
    )


_ANYBODY = None
OTHERS: tuple[GuardedResource, ...] = (
    GuardedResource("gpujobs/log", GROUP, True, {"get": Role.VIEWER}),
    GuardedResource("gpujobs/lease", GROUP, True, {"update": Role.USER}),
    GuardedResource("gpujobs/rerun", GROUP, True, {"create": Role.USER}),
    GuardedResource("gpujobs/checkpoints", GROUP, True, {"list": Role.VIEWER, "get": Role.USER, "delete": Role.USER}),
    GuardedResource("gpujobs/call", GROUP, True, {"get": Role.VIEWER}),
    GuardedResource("blobs", GROUP, False, {"get": _ANYBODY, "create": _ANYBODY}),
    GuardedResource("secrets", "", True, _all(("get", "list"), Role.VIEWER) | _all(WRITE, Role.USER)),
    GuardedResource("events", "", True, _all(READ, Role.VIEWER)),
    GuardedResource("events", "events.k8s.io", True, _all(READ, Role.VIEWER)),
    GuardedResource("pods", "", True, _all(READ, Role.VIEWER)),
    GuardedResource("pods/log", "", True, {"get": Role.VIEWER}),
    GuardedResource("pods/exec", "", True, _all(CONNECT, Role.USER)),
    GuardedResource("pods/attach", "", True, _all(CONNECT, Role.USER)),
    GuardedResource("pods/portforward", "", True, _all(CONNECT, Role.USER)),
    GuardedResource("nodes", "", False, _all(READ, _ANYBODY)),
    GuardedResource("namespaces", "", False, _all((*READ, "create", "update", "patch"), _ANYBODY)),
    GuardedResource("systemsecrets", GROUP, False, _all(("list", *WRITE), Role.ADMIN)),
    GuardedResource("workers", GROUP, False, {"get": Role.ADMIN, "create": Role.ADMIN, "update": Role.ADMIN}),
    GuardedResource("swarms", GROUP, False, {"get": Role.VIEWER, "create": Role.ADMIN, "update": Role.ADMIN}),
    GuardedResource("swarms/invitation", GROUP, False, {"get": Role.ADMIN}),
    GuardedResource("swarms/images", GROUP, False, {"create": Role.ADMIN}),
    GuardedResource("backups", GROUP, False, {"create": Role.ADMIN}),
    GuardedResource("metrics", GROUP, False, {"get": Role.VIEWER}),
    GuardedResource(
        "tokens", GROUP, False, {"get": Role.ADMIN, "list": Role.ADMIN, "create": Role.ADMIN, "delete": Role.ADMIN}
    ),
    GuardedResource("certificates", GROUP, False, {"list": Role.ADMIN, "delete": Role.ADMIN}),
    GuardedResource("selfsubjectaccessreviews", "authorization.k8s.io", False, {"create": _ANYBODY}),
    GuardedResource("selfsubjectrulesreviews", "authorization.k8s.io", False, {"create": _ANYBODY}),
    GuardedResource("selfsubjectreviews", "authentication.k8s.io", False, {"create": _ANYBODY}),
)
"""`tokens` are those of others: each user makes, lists and revokes their own. `certificates` are
those of clients, and to delete one is to revoke it. `gpujobs/call` is what a call gave back,
for its submitter alone; `blobs` are each user's own, and may be made by those who may make jobs somewhere. `pods/exec`
and the like are for the submitter of the job, and for admins (see `Guard.why_not_entered`)."""

RESOURCES: tuple[GuardedResource, ...] = (*(resource for kind in KINDS for resource in _of(kind)), *OTHERS)

_BY_NAME: dict[tuple[str, str], GuardedResource] = {(r.group, r.name): r for r in RESOURCES}
_FIRST: dict[str, GuardedResource] = {r.name: r for r in reversed(RESOURCES)}


def find(name: str, group: str | None = None) -> GuardedResource | None:
    """The resource `gpujobs` or `gpujobs/log`; without a group the first of that name."""
    return _FIRST.get(name) if group is None else _BY_NAME.get((group, name))
