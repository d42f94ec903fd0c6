"""Requests about nodes, and what would be lost with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cumulus.clock import Clock, to_the_second
from cumulus.errors import NodeRefused, NotFound
from cumulus.resources.condition_types import NodeCondition
from cumulus.resources.documents import condition, lookup
from cumulus.resources.key import Document, Key, key_of
from cumulus.resources.kinds import gpunode
from cumulus.resources.kinds.gpunode import devices, leases, partitions
from cumulus.resources.kinds.gpupartition import ENDED
from cumulus.resources.reasons import ContainersReason
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects

if TYPE_CHECKING:
    from cumulus.answers.nodes import DrainStep, RemoveStep
    from cumulus.resources.node import SshAddress

POLL_SECONDS = 0.5
LEAVE_SECONDS = 90.0
"""For a machine to leave its cluster."""


class Nodes:
    """`served` tells whether a daemon runs."""

    def __init__(self, objects: Objects, clock: Clock, served: Callable[[], bool]) -> None:
        self._objects = objects
        self._clock = clock
        self._served = served

    def get(self, identity: Identity, name: str) -> Document:
        """Raises NotFound, with where to see the nodes."""
        try:
            return self._objects.get(identity, Key(gpunode.KIND.name, "", name))
        except NotFound:
            raise NotFound(f"there is no node {name}", hint="see them with: cumulus node list") from None

    def cordon(self, identity: Identity, name: str, *, unschedulable: bool) -> bool:
        """Place nothing new on the node, or place jobs on it again. Whether there was something to change. Raises
        NotFound."""

        def change(node: Document) -> Document:
            if bool(lookup(node, "spec.unschedulable")) == unschedulable:
                return node
            return {**node, "spec": {**(node.get("spec") or {}), "unschedulable": unschedulable}}

        return self._objects.edit(identity, Key(gpunode.KIND.name, "", name), change)[1]

    def holders(self, identity: Identity, name: str) -> list[Document]:
        """The partitions that have, or are about to have, a lease on the node."""
        found = self._objects.list(identity, partitions(name)).items
        return [partition for partition in found if lookup(partition, "status.phase") not in ENDED]

    def drain(
        self, identity: Identity, name: str, *, now: bool = False, seconds: float | None = None
    ) -> Iterator[DrainStep]:
        """Place nothing new on the node, and wait until its last lease has ended. With `now` the leases are ended.
        `seconds`: how long at most. The iterator raises NotFound, and NodeRefused when time is up."""
        from cumulus.answers.nodes import Cordoned, Drained, NodeHolds

        deadline = self._clock.monotonic() + (float("inf") if seconds is None else seconds)
        self.get(identity, name)
        self.cordon(identity, name, unschedulable=True)
        yield Cordoned()
        if now:
            for partition in self.holders(identity, name):
                self._delete(identity, partition)
        while left := len(self.holders(identity, name)):
            yield NodeHolds(left)
            if self._clock.monotonic() >= deadline:
                raise NodeRefused(f"{name} still holds {leases(left)}", hint="wait on, or give --now")
            self._clock.sleep(min(POLL_SECONDS, max(0.01, deadline - self._clock.monotonic())))
        foreign = [lease for d in devices(self.get(identity, name)) for lease in d.get("foreignLeases") or ()]
        last = max((lease["expiresAt"] for lease in foreign), default="")
        yield Drained(len(foreign), to_the_second(last) if last else "")

    def remove(self, identity: Identity, name: str, *, force: bool = False) -> Iterator[RemoveStep]:
        """Take a worker out; a machine of a cluster leaves that too, which is waited for. With `force` though it holds
        leases. The iterator raises NotFound, NodeRefused."""
        from cumulus.answers.nodes import LeasesForgotten, Removed

        node = self.get(identity, name)
        ssh_address(node)
        held = len(self.holders(identity, name))
        if held and not force:
            raise NodeRefused(
                f"{name} holds {leases(held)}",
                hint=f"end them with: cumulus node drain {name} --now; or give --force, if it is gone for good",
            )
        if held:
            yield LeasesForgotten(held)
        since = self._objects.revision(identity)
        marked = self._objects.delete(identity, Key(gpunode.KIND.name, "", name), uid=node["metadata"]["uid"])
        in_cluster = bool(marked["metadata"].get("finalizers"))
        yield Removed(self._see_it_leave(identity, name, since) if in_cluster else "")

    def _see_it_leave(self, identity: Identity, name: str, since: int) -> str:
        """Wait until a machine has left the cluster that it is in; what is known of how it did. Raises NodeRefused."""
        if not self._served():
            raise NodeRefused(
                f"{name} has yet to leave the Swarm", hint="only a daemon does this; start one: cumulus serve"
            )
        deadline = self._clock.monotonic() + LEAVE_SECONDS
        watch = self._objects.watch(identity, since=since, kinds=frozenset({gpunode.KIND.name}))
        said: Mapping[str, Any] = {}
        try:
            while self._clock.monotonic() < deadline:
                for event in watch.next(POLL_SECONDS):
                    if event.key.name != name:
                        continue
                    said = condition(event.document, NodeCondition.CONTAINERS_READY) or {}
                    if event.type == "DELETED":
                        return str(said["message"]) if said.get("reason") == ContainersReason.LEFT else ""
                    if said.get("reason") == ContainersReason.IS_MANAGER:
                        raise NodeRefused(f"{name} stays until it can leave the Swarm: {said['message']}")
        finally:
            watch.close()
        raise NodeRefused(f"{name} has not left the Swarm within {LEAVE_SECONDS:.0f} s", hint="read the daemon's log")

    def _delete(self, identity: Identity, partition: Document) -> None:
        try:
            self._objects.delete(identity, key_of(partition), uid=partition["metadata"]["uid"])
        except NotFound:
            return


def ssh_address(document: Document) -> SshAddress:
    """Of a node. Raises NodeRefused where it has none."""
    from cumulus.resources.node import GPUNode
    from cumulus.store.client import decode

    node = decode(GPUNode, document)
    if node.spec.ssh is None:
        raise NodeRefused(
            f"the node {node.metadata.name} has no SSH address: a daemon there manages it",
            hint="once that daemon is stopped: cumulus delete node " + node.metadata.name,
        )
    return node.spec.ssh
