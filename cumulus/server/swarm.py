"""The daemon's Swarm backend: the Swarm that the settings name, and its nodes' Chronos and engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cumulus import paths
from cumulus.backends.base import LeaseRef
from cumulus.backends.process.backend import ProcessBackend
from cumulus.backends.swarm.backend import SwarmBackend
from cumulus.backends.swarm.engine import from_settings
from cumulus.backends.swarm.here import LocalRuns
from cumulus.backends.swarm.node_engine import ShellEngine
from cumulus.blob.base import BlobStore
from cumulus.chronos.contract import Prepares
from cumulus.errors import NodeUnreachable, NotFound
from cumulus.nodes import workers
from cumulus.nodes.agent import NodeAgent
from cumulus.resources.enforcement import Enforcement
from cumulus.resources.node import GPUNode, SshAddress
from cumulus.secrets import JobSecrets
from cumulus.server.settings import DaemonSettings
from cumulus.store.base import Store
from cumulus.store.client import StoreClient
from cumulus.store.leadership import store_id

_Agents = Callable[[], Mapping[str, NodeAgent]]


def backend(
    settings: DaemonSettings, store: Store, agents: _Agents, blobs: BlobStore, process: ProcessBackend, node: str
) -> SwarmBackend | None:  # fmt: skip
    """None where Docker's context, which the settings name, is the default one. `agents`: of the nodes that this daemon
    looks after; `process`: what runs on this machine, `node`."""
    engine = from_settings(settings.swarm)
    if engine is None:
        return None
    nodes = _Nodes(settings, store, agents)
    return SwarmBackend(
        str(paths.swarm_dir(settings.home)), engine, JobSecrets(paths.job_secrets_dir(settings.home)),
        store_id=lambda: store_id(store), instance=settings.swarm.instance, node_engine=nodes.engine,
        prepare=nodes.prepare, lease_end=nodes.lease_end, retention=settings.logs.retention,
        mounts=settings.containers.mounts, blobs=blobs, variables=settings.environment,
        node_env=settings.jobs.env, here=LocalRuns(node, process.specifications),
    )  # fmt: skip


class _Nodes:
    """What the backend asks of a node by its name."""

    def __init__(self, settings: DaemonSettings, store: Store, agents: _Agents) -> None:
        self._settings = settings
        self._client = StoreClient(store)
        self._agents = agents
        self._engines: dict[str, tuple[SshAddress | None, ShellEngine | None]] = {}

    def prepare(self, node: str, lease: LeaseRef) -> Mapping[str, str]:
        """The variables that hold a container to its lease there."""
        leases = self._agent(node).leases
        if lease.enforcement == Enforcement.NONE.value or not isinstance(leases, Prepares):
            return {}
        return leases.prepare(lease.id)

    def lease_end(self, node: str, id: str) -> tuple[str, str]:
        """Why a lease ended, and when; two empty texts while it is active or not known."""
        lease = self._agent(node).leases.get(id)
        if lease is None or lease.state.goes_on:
            return "", ""
        return (str(lease.end_reason.value) if lease.end_reason else "released"), lease.expires_at

    def engine(self, node: str) -> ShellEngine | None:
        """The node's own engine, None where it has no SSH address."""
        try:
            found = self._client.get(GPUNode, "", node)
        except NotFound:
            return None
        ssh = found.spec.ssh
        known = self._engines.get(node)
        if known is None or known[0] != ssh:
            known = self._engines[node] = ssh, self._opened(found)
        return known[1]

    def _opened(self, node: GPUNode) -> ShellEngine | None:
        settings = self._settings
        shell = workers.shell(settings.home, settings.ssh.key_path, node)
        if shell is None or node.spec.ssh is None:
            return None
        return ShellEngine(shell, workers.command(node.spec.ssh, settings.ssh.chronos_path))

    def _agent(self, node: str) -> NodeAgent:
        found = self._agents().get(node)
        if found is None:
            raise NodeUnreachable(f"this daemon does not manage the node {node}")
        return found
