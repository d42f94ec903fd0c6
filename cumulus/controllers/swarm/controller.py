"""The cluster controller: keeps the machines of a container engine's cluster and the GPUNodes in agreement.

A machine becomes a GPUNode that is reached over SSH. While the engine takes new work there, the node offers the
runtime `container`; a machine that is drained, paused or down offers it no more. Labels go both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from cumulus.backends.cluster import Cluster, Machine
from cumulus.clock import Clock, timestamp
from cumulus.errors import AlreadyExists, InvalidObject, NotOurs
from cumulus.machinery.cache import Reader, log_damaged
from cumulus.machinery.reconcile import Request, RequeueAfter, Result
from cumulus.machinery.recorder import EventRecorder
from cumulus.machinery.writes import remove_finalizer, write_status
from cumulus.resources.conditions import condition_set
from cumulus.resources.fields import check_label_key, check_label_value
from cumulus.resources.finalizers import CLUSTER_FINALIZER
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.node import GPUNode, GPUNodeSpec, SshAddress, in_cluster
from cumulus.resources.quantity import format_bytes
from cumulus.resources.reasons import ContainersReason, NodeCondition
from cumulus.store.client import StoreClient

NAME = "cluster"
CLUSTER = Request("", "cluster")
"""The controller's only key."""

LOOK_SECONDS = 10.0
_OURS = ("gpu.", "cumulus.dev/")
_AVAILABILITY = {"drain": ContainersReason.DRAINED, "pause": ContainersReason.PAUSED}


class ClusterReconciler:
    """`here` are the nodes that need no SSH; `user` is whom to be on the others. `changed` is told each node whose
    readiness for containers changed."""

    def __init__(
        self,
        reader: Reader,
        client: StoreClient,
        cluster: Cluster,
        clock: Clock,
        recorder: EventRecorder,
        *,
        here: Collection[str],
        user: str,
        changed: Callable[[Request], None],
    ) -> None:
        self._reader = reader
        self._client = client
        self._cluster = cluster
        self._clock = clock
        self._recorder = recorder
        self._here = here
        self._user = user
        self._changed = changed

    def reconcile(self, request: Request) -> Result:
        try:
            machines = self._named()
        except NotOurs as error:
            self._stay_away(error)
            return RequeueAfter(LOOK_SECONDS)
        for machine in machines.values():
            try:
                node = self._reader.get(GPUNode, "", machine.name)
            except InvalidObject as error:
                log_damaged(error)
                continue
            if node is None and machine.name not in self._here:
                node = self._create(machine)
            if node is not None and node.deleting:
                self._leave(node, machine)
            elif node is not None:
                node = self._label(node, machine)
                self._judge(node, machine)
                self._cluster.tell(machine.name, device_labels(node))
        for node in self._reader.all(GPUNode):
            if node.metadata.name in machines:
                continue
            if node.deleting:
                remove_finalizer(self._client, node, CLUSTER_FINALIZER)
            elif in_cluster(node):
                self._say(node, False, ContainersReason.NOT_A_MEMBER, "it is no longer a node of the cluster")
        return RequeueAfter(LOOK_SECONDS)

    def _named(self) -> Mapping[str, Machine]:
        """The machines by the names of their GPUNodes, which the cluster remembers from then on."""
        machines = self._cluster.machines()
        loose = [machine for machine in machines if not machine.pinned]
        for machine in loose:
            name = name_of(machine, machines, self._reader.all(GPUNode), self._here)
            self._cluster.pin(machine.id, name)
        machines = self._cluster.machines() if loose else machines
        return {machine.name: machine for machine in machines}

    def _leave(self, node: GPUNode, machine: Machine) -> None:
        """Before its GPUNode goes, the machine goes: it would be found again else."""
        if CLUSTER_FINALIZER not in node.metadata.finalizers:
            return
        if machine.role == "manager":
            hint = f"make it a worker, and it goes: docker node demote {machine.hostname}"
            self._say(node, False, ContainersReason.IS_MANAGER, f"it is a manager of the Swarm; {hint}")
            return
        said = self._cluster.remove(machine.name)
        node = self._say(node, False, ContainersReason.LEFT, said)
        remove_finalizer(self._client, node, CLUSTER_FINALIZER)

    def _stay_away(self, error: NotOurs) -> None:
        for node in self._reader.all(GPUNode):
            if node.deleting:
                remove_finalizer(self._client, node, CLUSTER_FINALIZER)
            elif in_cluster(node):
                self._say(
                    node, False, ContainersReason.NOT_OURS, f"{error}; {error.hint}" if error.hint else str(error)
                )

    def _create(self, machine: Machine) -> GPUNode:
        node = GPUNode(
            metadata=ObjectMeta(name=machine.name, finalizers=(CLUSTER_FINALIZER,)),
            spec=GPUNodeSpec(ssh=SshAddress(host=machine.address, user=self._user)),
        )
        try:
            return self._client.create(node)
        except AlreadyExists:
            return self._client.get(GPUNode, "", machine.name)

    def _label(self, node: GPUNode, machine: Machine) -> GPUNode:
        """Labels of the machine's, and the finalizer by which the machine goes with a GPUNode reached over SSH."""
        held = node.metadata.finalizers
        update: dict[str, object] = {"labels": {**node.metadata.labels, **foreign_labels(machine.labels)}}
        if node.spec.ssh is not None and CLUSTER_FINALIZER not in held:
            update["finalizers"] = (*held, CLUSTER_FINALIZER)
        metadata = node.metadata.model_copy(update=update)
        return node if metadata == node.metadata else self._client.update(node.replace(metadata=metadata))

    def _judge(self, node: GPUNode, machine: Machine) -> None:
        if machine.state != "ready":
            why = f"the cluster's manager says that it is {machine.state}"
            self._say(
                node, False, ContainersReason.DOWN, f"{why}; if the machine is up and stays so, restart its engine"
            )
        elif machine.availability != "active":
            reason = _AVAILABILITY.get(machine.availability, ContainersReason.UNAVAILABLE)
            self._say(node, False, reason, f"its availability is {machine.availability}")
        else:
            self._say(node, True, ContainersReason.ACTIVE, "")

    def _say(self, node: GPUNode, ready: bool, reason: str, message: str) -> GPUNode:
        now = timestamp(self._clock.now())
        conditions = condition_set(node.status.conditions, now, NodeCondition.CONTAINERS_READY, ready, reason, message)
        if conditions == node.status.conditions:
            return node
        node = node.replace(status=node.status.model_copy(update={"conditions": conditions}))
        write_status(self._client, node)
        if not ready:
            self._recorder.record(node, "Warning", reason, f"containers: {message}", component=NAME)
        self._changed(Request("", node.metadata.name))
        return node


def name_of(machine: Machine, machines: Sequence[Machine], nodes: Sequence[GPUNode], here: Collection[str]) -> str:
    """The GPUNode that a machine is which has no name yet: that of this host, the one at its address, else its own."""
    taken = {other.name for other in machines if other.id != machine.id}
    if machine.hostname in here and machine.hostname not in taken:
        return machine.hostname
    at = [n.metadata.name for n in nodes if n.spec.ssh is not None and n.spec.ssh.host == machine.address]
    free = [name for name in at if name not in taken]
    return free[0] if len(at) == len(free) == 1 else machine.name


def device_labels(node: GPUNode) -> dict[str, str]:
    """What a machine's labels say of its devices: gpu.count, and for each gpu.N.name, gpu.N.memory, gpu.N.id."""
    if not node.status.devices:
        return {}
    labels = {"gpu.count": str(len(node.status.devices))}
    for device in node.status.devices:
        labels[f"gpu.{device.index}.name"] = device.name
        labels[f"gpu.{device.index}.memory"] = format_bytes(device.memory_bytes)
        labels[f"gpu.{device.index}.id"] = device.id
    return labels


def foreign_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """A machine's labels that people gave it, as far as they can be an object's."""
    found = {}
    for key, value in labels.items():
        try:
            if not key.startswith(_OURS):
                found[check_label_key(key)] = check_label_value(value)
        except ValueError:
            continue
    return found
