"""All controllers, found in this package, and the control plane made of them.

Each package here declares its controllers in a module `declaration`, as `CONTROLLERS`. Their order means nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

from cumulus import controllers
from cumulus.backends.base import Backend
from cumulus.backends.cluster import Cluster
from cumulus.blob.base import BlobStore
from cumulus.controllers.context import ControllerContext, Placed, Removals, nobody_told
from cumulus.gitops.room import SourceRoom
from cumulus.history.follower import HistoryFollower
from cumulus.machinery.controller import BaseContext, Controller
from cumulus.machinery.leader import Term
from cumulus.nodes.agent import Agents
from cumulus.scheduling.policy import DEFAULT, Policies

Declared = Controller[ControllerContext, Any]


def declared() -> tuple[Declared, ...]:
    """The controllers that the packages of `cumulus.controllers` declare. Raises TypeError for a package that declares
    none."""
    found: list[Declared] = []
    for module in sorted(pkgutil.iter_modules(controllers.__path__), key=lambda module: module.name):
        if not module.ispkg:
            continue
        name = f"{controllers.__name__}.{module.name}.declaration"
        some = getattr(importlib.import_module(name), "CONTROLLERS", None)
        if not isinstance(some, tuple) or not all(isinstance(one, Controller) for one in some):
            raise TypeError(f"{name} has no CONTROLLERS, a tuple of what the package declares")
        found += some
    return tuple(found)


def context_maker(
    backends: Sequence[Backend],
    agents: Agents,
    *,
    cluster: Cluster | None = None,
    cluster_user: str = "root",
    policies: Policies = DEFAULT,
    placed: Placed = nobody_told,
    blobs: BlobStore | None = None,
    blob_retention: float = 86400.0,
    sources: SourceRoom | None = None,
    checkpoint_bucket: str = "",
    removals: Removals | None = None,
    history: HistoryFollower | None = None,
    shared_directories: Sequence[str] = (),
) -> Callable[[BaseContext, Term], ControllerContext]:
    """Makes what the controllers of a term are built from."""

    def context(base: BaseContext, term: Term) -> ControllerContext:
        return ControllerContext(
            cache=base.cache, client=base.client, clock=base.clock, recorder=base.recorder, agents=agents,
            backends={backend.runtime: backend for backend in backends}, cluster=cluster, cluster_user=cluster_user,
            policies=policies, owner=f"cumulus:{term.store_id}", placed=placed,
            blobs=blobs, blob_retention=blob_retention,
            sources=sources, checkpoint_bucket=checkpoint_bucket, removals=removals,
            shared_directories=tuple(shared_directories), history=history,
        )  # fmt: skip

    return context
