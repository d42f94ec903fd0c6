"""The Swarm that a command's environment names, for reading and for `cumulus cluster`."""

from __future__ import annotations

import socket
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from cumulus import paths
from cumulus.answers.swarm import (
    ImageStep,
    SwarmInvitation,
    SwarmMachine,
    SwarmMade,
    SwarmMark,
    SwarmOwnership,
    SwarmStatus,
)
from cumulus.backends.swarm import cluster
from cumulus.backends.swarm.backend import SwarmBackend
from cumulus.backends.swarm.engine import Engine, from_settings
from cumulus.backends.swarm.members import SwarmMember
from cumulus.backends.swarm.node_engine import ShellEngine
from cumulus.backends.swarm.owner import Mark, Ownership
from cumulus.backends.swarm.reach import OpensChannels
from cumulus.backends.swarm.settings import SwarmSettings
from cumulus.backends.swarm.spec import OWNER
from cumulus.errors import BackendError, CumulusError, NotOurs
from cumulus.lib.processes import boot_id
from cumulus.nodes import local
from cumulus.resources.documents import lookup
from cumulus.resources.fields import STORED
from cumulus.resources.key import Document
from cumulus.resources.node import GPUNode, SshAddress
from cumulus.secrets import JobSecrets
from cumulus.service.infrastructure import StoreId


class NamedSwarm:
    """See `service.infrastructure.SwarmInfrastructure`."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def initialise(self, advertise: str, listen: str) -> SwarmMade:
        engine = named_engine()
        made = cluster.initialise(engine, advertise, listen)
        return SwarmMade(made, engine.info()["Swarm"].get("NodeAddr", ""))

    def invitation(self) -> SwarmInvitation:
        return SwarmInvitation(*cluster.invitation(named_engine()))

    def status(self, store_id: StoreId) -> SwarmStatus:
        engine = named_engine()
        members = sorted((SwarmMember.read(node) for node in engine.nodes()), key=lambda member: member.name)
        machines = tuple(
            SwarmMachine(m.name, m.state, m.availability, m.role, m.engine, m.address, m.labels.get("gpu.count", ""))
            for m in members
        )
        problem = self.why_not_ours(store_id)
        owner = (f"{problem}; {problem.hint}",) if problem is not None else ()
        return SwarmStatus(machines, (*owner, *cluster.warnings(engine)))

    def why_not_ours(self, store_id: StoreId) -> NotOurs | None:
        """Why the Swarm would not be this state directory's. Raises BackendError."""
        with self._ownership(store_id) as ownership:
            return ownership.why_not_ours()

    def ownership(self, store_id: StoreId, jobs: Collection[str]) -> SwarmOwnership:
        with self._ownership(store_id) as ownership:
            seen = ownership.mark()
            if seen is not None and ownership.is_ours(seen):
                return SwarmOwnership(SwarmMark(**asdict(seen)), ours=True)
            services = ownership.services(seen)
        others = sorted(s["Spec"]["Name"] for s in services if s["Spec"]["Labels"].get(OWNER) not in jobs)
        mark = None if seen is None else SwarmMark(**asdict(seen))
        return SwarmOwnership(mark, False, len(services) - len(others), tuple(others))

    def adopt(self, store_id: StoreId, mark: SwarmMark | None) -> None:
        with self._ownership(store_id) as ownership:
            ownership.adopt(None if mark is None else Mark(**asdict(mark)))

    def push_image(
        self, name: str, nodes: Sequence[str], addresses: Mapping[str, SshAddress], every: float
    ) -> Generator[ImageStep]:
        from cumulus.infrastructure import images
        from cumulus.nodes.settings import SshSettings
        from cumulus.nodes.workers import ConnectionShell, connection

        key_path = SshSettings().key_path

        def shell(node: str, ssh: SshAddress) -> ConnectionShell:
            return ConnectionShell(connection(node, ssh, self._home, key_path))

        user = SwarmSettings().ssh_user
        return images.push(named_engine(), name, nodes, addresses, user=user, shell=shell, every=every)

    @contextmanager
    def _ownership(self, store_id: StoreId) -> Iterator[Ownership]:
        made = backend(self._home, store_id) or _missing()
        try:
            yield made.ownership
        finally:
            made.close()


def engine() -> Engine | None:
    """A way to ask the Swarm, None where none is named."""
    return from_settings(SwarmSettings())


def named_engine() -> Engine:
    """The same. Raises CumulusError where none is named."""
    return engine() or _missing()


def backend(home: Path, store_id: StoreId) -> SwarmBackend | None:
    """The backend for that state directory, None where no Swarm is named."""
    named = engine()
    return None if named is None else _backend(home, named, store_id)


def reader(home: Path, node: Document | None = None) -> SwarmBackend:
    """For reading logs: those that are saved need no Swarm. `node`: the GPUNode whose own engine it may ask."""

    def nobody() -> str:
        raise BackendError("who only reads logs has no part in the Swarm")

    return _backend(home, engine() or Engine([]), nobody, node)


def _backend(home: Path, engine: Engine, store_id: StoreId, node: Document | None = None) -> SwarmBackend:
    def node_engine(name: str) -> ShellEngine | None:
        if node is None or node["metadata"]["name"] != name:
            return None
        return engine_of(home, node)

    def reached(name: str) -> OpensChannels | None:
        return node_engine(name) or (None if node is None else _local_engine(node))

    return SwarmBackend(
        str(paths.swarm_dir(home)), engine, JobSecrets(paths.job_secrets_dir(home)),
        store_id=store_id, instance=SwarmSettings().instance, node_engine=node_engine, reached=reached,
    )  # fmt: skip


def engine_of(home: Path, node: Document) -> ShellEngine | None:
    """The own engine of a GPUNode, None where it has no SSH address."""
    from cumulus.nodes import workers
    from cumulus.nodes.settings import SshSettings

    found, settings = GPUNode.model_validate(node, context=STORED), SshSettings()
    shell = workers.shell(home, settings.key_path, found)
    if shell is None or found.spec.ssh is None:
        return None
    return ShellEngine(shell, workers.command(found.spec.ssh, settings.chronos_path))


class _LocalEngine:
    """What programs of this machine's containers are reached by."""

    def channel(self) -> socket.socket:
        """See `backends.swarm.reach.OpensChannels`."""
        sockets = [each.removeprefix("unix://") for each in SwarmSettings().managers if each.startswith("unix://")]
        try:
            return local.channel(sockets[0] if sockets else "")
        except OSError as error:
            raise BackendError(f"nothing can be started here: {error.strerror}") from error


def _local_engine(node: Document) -> OpensChannels | None:
    """None where the node is another machine."""
    return _LocalEngine() if lookup(node, "status.bootId") == boot_id() else None


def _missing() -> NoReturn:
    raise CumulusError(
        "no Docker engine is named",
        hint="set SWARM_MANAGER to a manager: unix:///var/run/docker.sock, tcp://HOST:2376 or ssh://USER@HOST",
    )
