"""A collector for each kind that others may own, and the sweep of nodes and backends."""

from __future__ import annotations

from collections.abc import Iterable

from cumulus.controllers.context import ControllerContext
from cumulus.controllers.gc.controller import SWEEP, GarbageReconciler, SweepReconciler
from cumulus.controllers.partition_watches import LIVE
from cumulus.machinery.cache import Cache
from cumulus.machinery.controller import Controller, WatchedKind, deleted, exists, itself, owned
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Request
from cumulus.resources.documents import owners
from cumulus.resources.kind import Kind
from cumulus.resources.registry import KINDS

OWNABLE = tuple(kind for kind in KINDS if kind.user_made and kind.namespaced)


def if_ownerless(change: Change, cache: Cache) -> Iterable[Request]:
    """The object, where the cache has none of its owners. Where it still has one, that one's deletion is told later."""
    found = owners(change.new)
    return () if not found or any(cache.has(owner["uid"]) for owner in found) else itself(change, cache)


def collector(kind: Kind) -> Controller[ControllerContext, GarbageReconciler]:
    return Controller(
        name=f"gc-{kind.name.lower()}",
        kind=kind.name,
        build=lambda context: GarbageReconciler(kind.model(), context.cache, context.client),
        watches=(
            WatchedKind(kind.name, if_ownerless, when=exists),
            *(WatchedKind[GarbageReconciler](owner.name, owned(kind.name), when=deleted) for owner in OWNABLE),
        ),
    )


CONTROLLERS = (
    *map(collector, OWNABLE),
    Controller[ControllerContext, SweepReconciler](
        name="sweep",
        build=lambda context: SweepReconciler(
            context.cache, context.client, context.agents, context.backends, owner=context.owner,
            changed=context.changed_jobs.push,
        ),
        resync=lambda context: (SWEEP,),
        indexes=(LIVE,),
    ),
)  # fmt: skip
