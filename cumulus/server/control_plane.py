"""The control plane: a manager with all controllers that are declared, and the nodes that they look after."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from cumulus.backends.base import Backend
from cumulus.backends.cluster import Cluster
from cumulus.blob.base import BlobStore
from cumulus.clock import Clock
from cumulus.controllers.composition import context_maker, declared
from cumulus.controllers.context import Removals, nobody_told
from cumulus.gitops.room import SourceRoom
from cumulus.history.follower import HistoryFollower
from cumulus.machinery.group import informer_for
from cumulus.machinery.manager import STALL_SECONDS, Manager, ManagerRole
from cumulus.nodes.agent import Agents, Connect, NodeAgent
from cumulus.resources.node import GPUNode, in_cluster
from cumulus.scheduling.policy import DEFAULT, Policies
from cumulus.store.base import Store

if TYPE_CHECKING:
    from cumulus.server.metrics.daemon import DaemonMetrics


class ControlPlane:
    """`connect` makes the agents of nodes with an SSH address; `metrics` are told what happens; the rest is as the
    `Manager` says."""

    def __init__(
        self,
        store: Store,
        backends: Sequence[Backend],
        agents: Sequence[NodeAgent],
        *,
        connect: Connect | None = None,
        cluster: Cluster | None = None,
        cluster_user: str = "root",
        clock: Clock | None = None,
        identity: str | None = None,
        ready: Callable[[ManagerRole], None] = lambda role: None,
        on_problems: Callable[[Sequence[str]], None] = lambda problems: None,
        workers: Mapping[str, int] | None = None,
        stall_seconds: float = STALL_SECONDS,
        metrics: DaemonMetrics | None = None,
        policies: Policies = DEFAULT,
        blobs: BlobStore | None = None,
        blob_retention: float = 86400.0,
        sources: SourceRoom | None = None,
        checkpoint_bucket: str = "",
        removals: Removals | None = None,
        history: HistoryFollower | None = None,
        shared_directories: Sequence[str] = (),
    ) -> None:
        controllers = declared()
        informer = informer_for(store, controllers)
        if metrics is not None:
            informer.add_handler(metrics.starts.changed)

        def closed(node: GPUNode) -> bool:
            """A machine of a cluster that is, as far as is known, not ours: its leases are neither."""
            return cluster is not None and in_cluster(node) and not cluster.confirmed

        self._agents = Agents(informer.cache, agents, connect, closed=closed)
        if metrics is not None:
            metrics.usage.of(self._agents)
        self._manager = Manager(
            store, informer, controllers,
            context_maker(
                backends, self._agents, cluster=cluster, cluster_user=cluster_user, policies=policies,
                placed=nobody_told if metrics is None else metrics.starts.placed,
                blobs=blobs, blob_retention=blob_retention, sources=sources, checkpoint_bucket=checkpoint_bucket,
                removals=removals, shared_directories=shared_directories, history=history,
            ),
            clock=clock, identity=identity, ready=ready, on_problems=on_problems, workers=workers,
            stall_seconds=stall_seconds, instruments=None if metrics is None else metrics.controllers,
        )  # fmt: skip

    @property
    def agents(self) -> Mapping[str, NodeAgent]:
        """One for each node that this daemon looks after."""
        return self._agents

    @property
    def role(self) -> ManagerRole:
        return self._manager.role

    def run(self, stop: threading.Event) -> None:
        """`Manager.run`, and close the connections to nodes after it."""
        try:
            self._manager.run(stop)
        finally:
            self._agents.close()
