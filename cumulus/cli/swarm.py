"""The Swarm as `serve` and `logs` use it: its address from the environment, its nodes' Chronos from the agents.

SWARM_MANAGER (or DOCKER_HOST, or the current Docker context) names the managers, DOCKER_TLS_VERIFY and
DOCKER_CERT_PATH the certificates, SWARM_INSTANCE this control plane where several share a Swarm, SWARM_SSH_USER whom
to be on the workers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from cumulus import log, paths
from cumulus.backends.base import LeaseRef
from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention
from cumulus.backends.swarm.backend import SwarmBackend
from cumulus.backends.swarm.engine import Engine, from_environment
from cumulus.backends.swarm.shell import NodeShell, ShellEngine
from cumulus.chronos.lease import LeaseState, Prepares
from cumulus.errors import BackendError, CumulusError, NodeUnreachable, NotFound, UsageError
from cumulus.nodes.agent import NodeAgent
from cumulus.resources.enforcement import Enforcement
from cumulus.resources.key import Key
from cumulus.resources.lease import LEADER
from cumulus.secrets import SecretStore
from cumulus.store.base import Store

Agents = Callable[[], Mapping[str, NodeAgent]]
Shells = Callable[[str], NodeShell | None]


def backend(
    home: Path,
    store: Store,
    agents: Agents = dict,
    shells: Shells = lambda node: None,
    retention: LogRetention = DEFAULT_RETENTION,
) -> SwarmBackend | None:
    """The backend of the Swarm that the environment names; None where it names none."""
    engine = from_environment(os.environ)
    return None if engine is None else _backend(home, engine, lambda: store_id(store), agents, shells, retention)


def missing() -> NoReturn:
    raise CumulusError(
        "no Docker engine is named",
        hint="set SWARM_MANAGER to a manager: unix:///var/run/docker.sock, tcp://HOST:2376 or ssh://USER@HOST",
    )


def store_id(store: Store) -> str:
    """A name for the store that its backups keep. Raises `BackendError` where no daemon has led on it yet."""
    try:
        return str(store.get(Key("Lease", "", LEADER))["metadata"]["uid"])
    except NotFound:
        raise BackendError(
            "the store has no id yet, since no daemon has led on it", hint="start one: cumulus serve"
        ) from None


def _instance() -> str:
    """Raises `UsageError` where it can be no part of a Swarm config's name."""
    given = os.environ.get("SWARM_INSTANCE", "")
    if given and not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,48}[A-Za-z0-9])?", given):
        raise UsageError(
            f"SWARM_INSTANCE is {given[:80]!r}, which names no control plane",
            hint="take up to 50 letters, digits, '-', '_' and '.'; the first and the last a letter or digit",
        )
    return given


def reader(home: Path) -> SwarmBackend:
    """For reading logs: those that are saved need no Swarm."""

    def nobody() -> str:
        raise BackendError("who only reads logs has no part in the Swarm")

    log.silence()
    return _backend(home, from_environment(os.environ) or Engine([]), nobody, dict, lambda node: None)


def _backend(
    home: Path,
    engine: Engine,
    store_id: Callable[[], str],
    agents: Agents,
    shells: Shells,
    retention: LogRetention = DEFAULT_RETENTION,
) -> SwarmBackend:
    def agent(node: str) -> NodeAgent:
        found = agents().get(node)
        if found is None:
            raise NodeUnreachable(f"this daemon does not look after the node {node}")
        return found

    def prepare(node: str, lease: LeaseRef) -> Mapping[str, str]:
        leases = agent(node).leases
        if lease.enforcement == Enforcement.NONE.value or not isinstance(leases, Prepares):
            return {}
        return leases.prepare(lease.id)

    def lease_end(node: str, id: str) -> tuple[str, str]:
        lease = agent(node).leases.get(id)
        if lease is None or lease.state is LeaseState.ACTIVE:
            return "", ""
        return (str(lease.end_reason.value) if lease.end_reason else "released"), lease.expires_at

    def node_engine(node: str) -> ShellEngine | None:
        shell = shells(node)
        return None if shell is None else ShellEngine(shell)

    return SwarmBackend(
        str(paths.swarm_dir(home)), engine, SecretStore(paths.secrets_dir(home)),
        store_id=store_id, instance=_instance(), node_engine=node_engine, prepare=prepare,
        lease_end=lease_end, retention=retention,
    )  # fmt: skip
