"""The machines of a cluster and their GPUNodes: one each, whatever hosts are called, and gone together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from cumulus.backends.swarm.members import NAME_LABEL, SwarmMember, distinct
from cumulus.chronos.contract import Device, LeaseRequest, NodeFacts
from cumulus.clock import FakeClock
from cumulus.controllers.node.controller import NodeReconciler
from cumulus.controllers.swarm.controller import CLUSTER, ClusterReconciler
from cumulus.errors import BackendError, NotFound, NotOurs
from cumulus.machinery.cache import StoreReader
from cumulus.machinery.reconcile import Request
from cumulus.machinery.recorder import EventRecorder
from cumulus.nodes.agent import NodeAgent
from cumulus.resources.finalizers import CLUSTER_FINALIZER
from cumulus.resources.meta import ObjectMeta, condition
from cumulus.resources.node import GPUNode, GPUNodeSpec, SshAddress
from cumulus.resources.reasons import NodeCondition
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from cumulus.testing.leases import FakeLeases, fake_device
from tests.controllers.objects import a_partition


def member(id: str, hostname: str, address: str = "", state: str = "ready", **more: str) -> SwarmMember:
    labels = {NAME_LABEL: more["pinned"]} if "pinned" in more else {}
    return SwarmMember(
        id=id, name=more.get("pinned", hostname), hostname=hostname, address=address or f"10.0.0.{id}", state=state,
        availability="active", role=more.get("role", "worker"), engine="20", labels=labels,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("members", "names"),
    [
        pytest.param([member("1", "a"), member("2", "b")], {"1": "a", "2": "b"}, id="each by its host"),
        pytest.param([member("1", "a"), member("2", "a")], {"1": "a", "2": "a-2"}, id="two hosts of one name"),
        pytest.param(
            [member("1", "new", pinned="a"), member("2", "a")], {"1": "a", "2": "a-2"}, id="a name that was given away"
        ),
        pytest.param(
            [member("1", "a", "10.1", "down", pinned="a"), member("2", "a", "10.1")], {"2": "a"}, id="joined anew"
        ),
        pytest.param(
            [member("1", "a", "10.1", "down", pinned="a"), member("2", "a", "10.2")], {"1": "a", "2": "a-2"},
            id="another machine while the first one is away",
        ),
        pytest.param([member("1", "a", state="down"), member("2", "a", state="down")], {"1": "a"}, id="both away"),
        pytest.param([member("1", "a", state="down"), member("2", "a", "10.0.0.1")], {"2": "a"}, id="never written"),
    ],
)  # fmt: skip
def test_each_machine_has_a_name_of_its_own(members: Sequence[SwarmMember], names: Mapping[str, str]) -> None:
    assert {m.id: m.name for m in distinct(members)} == names


def test_one_that_has_just_joined_is_there_once_it_has_told_its_hosts_name() -> None:
    """The manager lists it before: without a description, in no state."""
    joined = {"ID": "r59hej2rnj5u", "Spec": {"Availability": "active"}, "Status": {"State": "unknown"}}
    first, told = member("1", "a"), {"Description": {"Hostname": "Worker_2"}, "Status": {"State": "ready"}}
    assert [m.name for m in distinct([first, SwarmMember.read(joined)])] == ["a"]
    assert [m.name for m in distinct([first, SwarmMember.read({**joined, "Description": {}})])] == ["a"]
    assert [m.name for m in distinct([first, SwarmMember.read(joined | told)])] == ["a", "worker-2"]
    back = {**joined, "Spec": {"Labels": {NAME_LABEL: "b"}}}
    assert [m.name for m in distinct([first, SwarmMember.read(back)])] == ["b", "a"]


class FakeCluster:
    """`manager` raises what its manager would."""

    def __init__(self, *members: SwarmMember) -> None:
        self.members = {m.id: m for m in members}
        self.told: list[str] = []
        self.trouble: BackendError | None = None
        self.confirmed = True

    def machines(self) -> Sequence[SwarmMember]:
        if self.trouble is not None:
            raise self.trouble
        return distinct(list(self.members.values()))

    def tell(self, name: str, labels: Mapping[str, str]) -> None:
        return

    def pin(self, id: str, name: str) -> None:
        for other in self.members.values():
            if other.labels.get(NAME_LABEL) == name and other.id != id:
                self.members[other.id] = replace(other, name=other.hostname, labels={})
        self.members[id] = replace(self.members[id], name=name, labels={NAME_LABEL: name})

    def remove(self, name: str) -> str:
        self.told.append(name)
        self.members = {m.id: m for m in self.members.values() if m.name != name}
        return "it left the Swarm"

    def rename(self, id: str, hostname: str) -> None:
        """A host gets another name, and its engine is started anew."""
        known = self.members[id]
        self.members[id] = replace(known, hostname=hostname, name=known.labels.get(NAME_LABEL) or hostname)


class Bed:
    def __init__(self, *members: SwarmMember, here: Sequence[str] = ()) -> None:
        self.cluster = FakeCluster(*members)
        self.client = StoreClient(MemoryStore())
        self.controller = ClusterReconciler(
            StoreReader(self.client.store), self.client, self.cluster, FakeClock(),
            EventRecorder(self.client, FakeClock()),
            here=here, user="root", changed=lambda name: None,
        )  # fmt: skip

    def look(self) -> set[str]:
        """The GPUNodes after a look at the cluster."""
        self.controller.reconcile(CLUSTER)
        return {node.metadata.name for node in self.client.list(GPUNode)}

    def node(self, name: str) -> GPUNode:
        return self.client.get(GPUNode, "", name)

    def reason(self, name: str) -> str:
        found = condition(self.node(name).status.conditions, "ContainersReady")
        return "" if found is None else found.reason


def test_a_renamed_host_stays_the_node_that_it_was() -> None:
    bed = Bed(member("1", "gpu-1"), member("2", "gpu-2"))
    assert bed.look() == {"gpu-1", "gpu-2"}
    bed.cluster.rename("1", "other")
    assert bed.look() == {"gpu-1", "gpu-2"}
    assert bed.reason("gpu-1") == "Active"
    bed.cluster.rename("2", "gpu-1")
    assert bed.look() == {"gpu-1", "gpu-2"}, "the name that is free on the hosts is none here"


def test_a_host_that_joins_anew_under_another_name_is_known_by_its_address() -> None:
    bed = Bed(member("1", "gpu-1", "10.1"))
    bed.look()
    bed.cluster.members = {"2": member("2", "renamed", "10.1")}
    assert bed.look() == {"gpu-1"}
    assert bed.cluster.members["2"].labels == {NAME_LABEL: "gpu-1"}


def test_a_machine_that_was_added_by_hand_is_no_second_node() -> None:
    bed = Bed(member("1", "gpu-1", "10.1"))
    spec = GPUNodeSpec(ssh=SshAddress(host="10.1", user="me"))
    bed.client.create(GPUNode(metadata=ObjectMeta(name="mine"), spec=spec))
    assert bed.look() == {"mine"}
    assert bed.reason("mine") == "Active"


def test_this_hosts_own_node_is_the_machine_with_its_name() -> None:
    bed = Bed(member("1", "head", pinned="before"), here=("head",))
    bed.client.create(GPUNode(metadata=ObjectMeta(name="head")))
    bed.cluster.pin("1", "head")
    assert bed.look() == {"head"}
    assert not bed.node("head").metadata.finalizers, "it has no machine to leave with"
    bed.cluster.members["2"] = member("2", "head", "10.0.0.2")
    assert bed.look() == {"head", "head-2"}, "another host of that name is another node"
    assert bed.look() == {"head", "head-2"}


def test_a_node_that_is_removed_leaves_the_cluster_and_is_not_found_again() -> None:
    bed = Bed(member("1", "gpu-1"), member("2", "gpu-2"))
    bed.look()
    assert bed.node("gpu-1").metadata.finalizers == (CLUSTER_FINALIZER,)
    watch = bed.client.store.watch(since=bed.client.store.revision())
    bed.client.delete(bed.node("gpu-1"))
    assert bed.look() == {"gpu-2"}
    assert bed.cluster.told == ["gpu-1"]
    assert bed.look() == {"gpu-2"}
    last = [event for event in watch.next(1) if event.type == "DELETED"][-1].document
    said = next(c for c in last["status"]["conditions"] if c["type"] == "ContainersReady")
    assert (said["reason"], said["message"]) == ("Left", "it left the Swarm"), "whoever waits reads it there"


def test_a_manager_stays_until_it_is_a_worker() -> None:
    bed = Bed(member("1", "gpu-1", role="manager"))
    bed.look()
    bed.client.delete(bed.node("gpu-1"))
    assert bed.look() == {"gpu-1"}
    assert (bed.reason("gpu-1"), bed.cluster.told) == ("IsManager", [])
    bed.cluster.members["1"] = replace(bed.cluster.members["1"], role="worker")
    assert bed.look() == set()


def test_a_removal_that_a_crash_cut_short_is_finished() -> None:
    bed = Bed(member("1", "gpu-1"))
    bed.look()
    bed.client.delete(bed.node("gpu-1"))
    bed.cluster.remove("gpu-1")
    assert bed.look() == set()


def test_anothers_cluster_is_left_alone() -> None:
    bed = Bed(member("1", "gpu-1"))
    bed.look()
    bed.cluster.trouble = NotOurs("it belongs to bob", hint="adopt it")
    assert bed.look() == {"gpu-1"}
    assert bed.reason("gpu-1") == "NotOurs"
    bed.client.delete(bed.node("gpu-1"))
    assert bed.look() == set(), "the GPUNode is ours, the machine is not"
    assert not bed.cluster.told


GPU = "GPU-00000000-0000-0000-0000-00000000000a"


class Machines:
    """Nodes whose Chronos answers with the devices they are given, looked at by the real node loop."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.client = StoreClient(MemoryStore(clock=self.clock))
        self.agents: dict[str, NodeAgent] = {}
        self.controller = NodeReconciler(
            StoreReader(self.client.store), self.client, self.agents, self.clock,
            EventRecorder(self.client, self.clock),
            changed=lambda key: None,
        )  # fmt: skip

    def add(self, name: str, *devices: Device, boot: str = "b") -> FakeLeases:
        leases = FakeLeases(list(devices), self.clock)
        self.agents[name] = NodeAgent(name, leases, facts=lambda: NodeFacts(name, boot))
        self.clock.advance(1)
        return leases

    def look(self, *names: str) -> dict[str, int]:
        """How many devices each node counts, after each was looked at."""
        for name in names or tuple(self.agents):
            self.controller.reconcile(Request("", name))
        return {node.metadata.name: len(node.status.devices) for node in self.client.list(GPUNode)}

    def twin(self, name: str) -> bool:
        return condition(self.client.get(GPUNode, "", name).status.conditions, NodeCondition.TWIN) is not None


def test_a_machine_that_is_two_nodes_counts_once() -> None:
    """Added by hand, and found in the cluster, say."""
    world = Machines()
    gpu = replace(fake_device(), id=GPU)
    world.add("first", gpu)
    world.look()
    world.add("second", gpu)
    assert world.look() == {"first": 1, "second": 0}
    assert world.twin("second")
    assert not world.twin("first")
    assert world.look("second", "first") == {"first": 1, "second": 0}
    del world.agents["first"]
    world.client.delete(world.client.get(GPUNode, "", "first"))
    assert world.look() == {"second": 1}
    assert not world.twin("second")


def test_a_node_that_came_back_under_another_name_takes_its_devices_along() -> None:
    world = Machines()
    gpu = replace(fake_device(), id="pci-0000:03:00.0", type="accelerator")
    world.add("old", gpu)
    world.look()
    del world.agents["old"]
    world.clock.advance(100)
    world.look("old")
    world.add("new", gpu)
    assert world.look("old", "new") == {"old": 0, "new": 1}
    assert world.twin("old")


def test_devices_that_only_look_alike_count_on_each_machine() -> None:
    """PCI addresses are the same on many machines, and a CPU may be offered by several nodes on purpose."""
    world = Machines()
    pci, cpu = replace(fake_device(), id="pci-0000:03:00.0"), replace(fake_device(1), id="cpu", type="cpu")
    world.add("a", pci, cpu, boot="boot-a")
    world.add("b", pci, cpu, boot="boot-b")
    world.add("c", cpu, boot="boot-a")
    assert world.look() == {"a": 2, "b": 2, "c": 1}


def test_a_lease_of_a_partition_on_the_other_node_of_a_machine_is_taken_here_too() -> None:
    """Two nodes that are one ledger: what one of them runs is not free on the other."""
    world = Machines()
    leases = world.add("a", fake_device())
    partition = world.client.create(a_partition())
    world.client.update_status(partition.replace(status=partition.status.model_copy(update={"node": "b"})))
    leases.grant(LeaseRequest(partition.uid, 0, 30, 300, seconds=60))
    world.look()
    [device] = world.client.get(GPUNode, "", "a").status.devices
    assert [lease.partition_id for lease in device.foreign_leases] == [partition.uid]


def test_a_node_goes_where_there_is_no_cluster_any_more() -> None:
    world = Machines()
    made = world.client.create(GPUNode(metadata=ObjectMeta(name="gone", finalizers=(CLUSTER_FINALIZER,))))
    world.client.delete(made)
    world.controller.reconcile(Request("", "gone"))
    with pytest.raises(NotFound):
        world.client.get(GPUNode, "", "gone")
