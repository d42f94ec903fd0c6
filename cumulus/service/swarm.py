"""Requests about the Docker Swarm: create, join, show, adopt, and copy images to it."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from cumulus.answers.swarm import (
    ImageStep,
    SwarmInvitation,
    SwarmMade,
    SwarmMark,
    SwarmOwnership,
    SwarmStatus,
)
from cumulus.resources.documents import lookup
from cumulus.resources.kinds import gpujob, gpunode
from cumulus.resources.query import Query
from cumulus.service.identity import Identity

if TYPE_CHECKING:
    from cumulus.resources.node import SshAddress
    from cumulus.service.service import Service


class Swarm:
    """Every method raises CumulusError where no engine is named, BackendError where it can't do it."""

    def __init__(self, service: Service) -> None:
        # The store is opened by the calls that need it: a Swarm can be made before there is one.
        self._service = service
        self._access = service.infrastructure.swarm

    def initialise(self, identity: Identity, *, advertise: str = "", listen: str = "") -> SwarmMade:
        """Make the engine's machine the manager of a new Swarm, or put the settings of the one it manages right."""
        self._service.access.check(identity, "create", "swarms")
        return self._access.initialise(advertise, listen)

    def invitation(self, identity: Identity) -> SwarmInvitation:
        """What a machine needs to join as a worker."""
        self._service.access.check(identity, "get", "swarms/invitation")
        return self._access.invitation()

    def status(self, identity: Identity) -> SwarmStatus:
        """Its nodes, and what is not as jobs need it."""
        self._service.access.check(identity, "get", "swarms")
        return self._access.status(self._store_id)

    def ownership(self, identity: Identity) -> SwarmOwnership:
        """Whose it is, and what of the services there are this store's jobs."""
        self._service.access.check(identity, "get", "swarms")
        jobs = {item["metadata"]["uid"] for item in self._service.store.list(Query(gpujob.KIND.name)).items}
        return self._access.ownership(self._store_id, jobs)

    def adopt(self, identity: Identity, mark: SwarmMark | None) -> None:
        """Take the Swarm over from whom the mark names, as `ownership` showed it. Raises BackendError where it has
        changed since."""
        self._service.access.check(identity, "update", "swarms")
        self._access.adopt(self._store_id, mark)

    def push_image(self, identity: Identity, name: str, nodes: Sequence[str], *, every: float) -> Generator[ImageStep]:
        """Bring an image from the manager's engine to nodes, to all that take containers where none is named. How far
        it is comes every so many seconds. The iterator raises UsageError for a node that there is not, BackendError."""
        self._service.access.check(identity, "create", "swarms/images")
        return self._access.push_image(name, nodes, self._addresses(), every)

    def _store_id(self) -> str:
        from cumulus.store.leadership import store_id

        return store_id(self._service.store)

    def _addresses(self) -> Mapping[str, SshAddress]:
        """Of the GPUNodes that are known: before the first daemon there are none."""
        from cumulus.resources.node import GPUNode
        from cumulus.store.client import decode

        items = self._service.store.list(Query(gpunode.KIND.name)).items
        found = [decode(GPUNode, item) for item in items if lookup(item, "spec.ssh")]
        return {node.metadata.name: node.spec.ssh for node in found if node.spec.ssh is not None}
