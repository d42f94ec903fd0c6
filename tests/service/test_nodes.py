"""Nodes: what draining, removing and adding tell, and what speaks against them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulus.answers.nodes import (
    Cordoned,
    Drained,
    LeasesForgotten,
    NodeHolds,
    Removed,
    WorkerAddress,
    WorkerFound,
    WorkerSaid,
)
from cumulus.clock import FakeClock
from cumulus.errors import NodeRefused, NodeUnreachable, NotFound, UsageError
from cumulus.resources.finalizers import CLUSTER_FINALIZER
from cumulus.resources.key import Document, Key
from cumulus.service.access.access import Access
from cumulus.service.nodes import Nodes
from cumulus.service.objects import Objects
from cumulus.service.service import Service
from cumulus.store.base import Store
from cumulus.store.memory import MemoryStore
from tests.documents import active, ahead, condition, node
from tests.service.conftest import ME, FakeInfrastructure, host_key

GPU_1 = Key("GPUNode", "", "gpu-1")
SSH = {"host": "h", "user": "u"}


def _objects(store: Store) -> Objects:
    return Objects(store, FakeClock(), Access(lambda: store, 0))


class Bed:
    def __init__(self, store: MemoryStore, clock: FakeClock) -> None:
        self.store = store
        self.served = True
        self.nodes = Nodes(Objects(store, clock, Access(lambda: store, 0)), clock, lambda: self.served)


@pytest.fixture
def bed(store: MemoryStore, clock: FakeClock) -> Bed:
    return Bed(store, clock)


class TestDrain:
    def test_it_waits_for_the_last_lease(self, bed: Bed) -> None:
        bed.store.create(node("gpu-1"))
        for name in ("a", "b"):
            bed.store.create(active(name))
        steps = bed.nodes.drain(ME, "gpu-1")
        assert [next(steps), next(steps)] == [Cordoned(), NodeHolds(2)]
        assert bed.store.get(GPU_1)["spec"]["unschedulable"] is True
        bed.store.delete(Key("GPUPartition", "default", "a"))
        assert next(steps) == NodeHolds(1)
        bed.store.delete(Key("GPUPartition", "default", "b"))
        assert list(steps) == [Drained()]

    def test_now_ends_them(self, bed: Bed) -> None:
        bed.store.create(node("gpu-1"))
        bed.store.create(active("a"))
        bed.store.create(active("b", node="gpu-2"))
        assert list(bed.nodes.drain(ME, "gpu-1", now=True)) == [Cordoned(), Drained()]
        assert bed.store.get(Key("GPUPartition", "default", "b"))

    def test_time_is_up(self, bed: Bed, clock: FakeClock) -> None:
        bed.store.create(node("gpu-1"))
        bed.store.create(active("a"))
        before = clock.monotonic()
        with pytest.raises(NodeRefused, match=r"^gpu-1 still holds 1 lease$") as raised:
            list(bed.nodes.drain(ME, "gpu-1", seconds=5))
        assert clock.monotonic() - before == pytest.approx(5, abs=0.1)
        assert raised.value.hint == "wait on, or give --now"

    def test_leases_made_on_the_node_go_on(self, bed: Bed) -> None:
        made = node("gpu-1")
        made["status"]["devices"][0]["foreignLeases"] = [
            {"partitionId": name, "expiresAt": ahead(minutes=minutes)} for name, minutes in (("x", 9), ("y", 5))
        ]
        bed.store.create(made)
        *_, last = bed.nodes.drain(ME, "gpu-1")
        assert last == Drained(2, "2030-01-01T12:09:00Z")

    def test_a_node_that_there_is_not(self, bed: Bed) -> None:
        for steps in (bed.nodes.drain(ME, "nope"), bed.nodes.remove(ME, "nope")):
            with pytest.raises(NotFound, match=r"^there is no node nope$"):
                list(steps)


class TestRemove:
    def test_one_that_holds_nothing(self, bed: Bed) -> None:
        bed.store.create(node("gpu-1", ssh=SSH))
        assert list(bed.nodes.remove(ME, "gpu-1")) == [Removed()]
        with pytest.raises(NotFound):
            bed.store.get(GPU_1)

    def test_one_that_holds_leases_needs_force(self, bed: Bed) -> None:
        bed.store.create(node("gpu-1", ssh=SSH))
        bed.store.create(active("a"))
        with pytest.raises(NodeRefused, match=r"^gpu-1 holds 1 lease$"):
            list(bed.nodes.remove(ME, "gpu-1"))
        assert list(bed.nodes.remove(ME, "gpu-1", force=True)) == [LeasesForgotten(1), Removed()]

    def test_one_that_a_daemon_looks_after(self, bed: Bed) -> None:
        bed.store.create(node("gpu-1"))
        with pytest.raises(NodeRefused, match="has no SSH address"):
            list(bed.nodes.remove(ME, "gpu-1"))

    def test_a_machine_of_the_swarm_without_a_daemon(self, bed: Bed) -> None:
        bed.served = False
        bed.store.create(in_swarm())
        with pytest.raises(NodeRefused, match=r"^gpu-1 has yet to leave the Swarm$"):
            list(bed.nodes.remove(ME, "gpu-1"))

    def test_how_a_machine_left_the_swarm_is_told(self, bed: Bed) -> None:
        bed.store.create(in_swarm())
        nodes = Nodes(
            Objects(bed.store, FakeClock(), Access(lambda: bed.store, 0)),
            FakeClock(),
            lambda: _left(bed.store, "Left", "it left well"),
        )
        assert list(nodes.remove(ME, "gpu-1")) == [Removed("it left well")]

    def test_a_manager_stays(self, bed: Bed) -> None:
        bed.store.create(in_swarm())
        nodes = Nodes(
            Objects(bed.store, FakeClock(), Access(lambda: bed.store, 0)),
            FakeClock(),
            lambda: _said(bed.store, "IsManager", "demote it"),
        )
        with pytest.raises(NodeRefused, match="stays until it can leave the Swarm: demote it"):
            list(nodes.remove(ME, "gpu-1"))


def in_swarm() -> Document:
    made = node("gpu-1", ssh=SSH)
    return {**made, "metadata": {**made["metadata"], "finalizers": [CLUSTER_FINALIZER]}}


def _said(store: MemoryStore, reason: str, message: str) -> bool:
    """A daemon runs, and has just said that."""
    found = store.get(GPU_1)
    conditions = [condition("ContainersReady", False, reason, message)]
    store.update_status({**found, "status": {**found["status"], "conditions": conditions}})
    return True


def _left(store: MemoryStore, reason: str, message: str) -> bool:
    _said(store, reason, message)
    found = store.get(GPU_1)
    store.update({**found, "metadata": {**found["metadata"], "finalizers": []}})
    return True


class TestWorkers:
    @pytest.fixture
    def outside(self) -> FakeInfrastructure:
        made = FakeInfrastructure()
        made.workers.keys["h"] = host_key("h")
        return made

    @pytest.fixture
    def service(self, store: MemoryStore, clock: FakeClock, outside: FakeInfrastructure) -> Service:
        return Service(lambda: store, Path("/nowhere"), clock, infrastructure=outside)

    def test_nothing_is_trusted_before_it_is_added(self, service: Service, outside: FakeInfrastructure) -> None:
        address = WorkerAddress("root@h:2222", chronos_cli="x")
        found = service.workers.find(ME, "gpu-1", address)
        assert found == WorkerFound(host_key("h"), trusted=False)
        assert outside.workers.trusted == {}
        assert service.workers.add(ME, "gpu-1", address, found.key) == "added"
        wanted = {"host": "h", "port": 2222, "user": "root", "chronosCli": "x"}
        assert wanted.items() <= service.store.get(GPU_1)["spec"]["ssh"].items()
        assert service.workers.find(ME, "gpu-1", address).trusted
        # What is left out stays as it is.
        assert service.workers.add(ME, "gpu-1", WorkerAddress("root@h:2222"), found.key) == "unchanged"
        assert service.workers.add(ME, "gpu-1", WorkerAddress("me@h:2222"), found.key) == "changed"
        assert service.store.get(GPU_1)["spec"]["ssh"]["chronosCli"] == "x"

    def test_another_fingerprint_or_key_is_refused(self, service: Service, outside: FakeInfrastructure) -> None:
        with pytest.raises(NodeRefused, match=r"shows the host key SHA256:abc \(ED25519\), not SHA256:x"):
            service.workers.find(ME, "gpu-1", WorkerAddress("root@h"), fingerprint="SHA256:x")
        assert service.workers.find(ME, "gpu-1", WorkerAddress("root@h"), fingerprint="SHA256:abc")
        outside.workers.trusted["h"] = host_key("h", "other")
        with pytest.raises(NodeUnreachable, match="is not the one that is known"):
            service.workers.find(ME, "gpu-1", WorkerAddress("root@h"))

    def test_names_and_machines_that_are_taken(self, service: Service) -> None:
        service.store.create(node("here"))
        service.store.create(node("gpu-1", ssh={**SSH, "port": 22}))
        with pytest.raises(NodeRefused, match="a daemon there manages it"):
            service.workers.find(ME, "here", WorkerAddress("root@other"))
        with pytest.raises(NodeRefused, match="h, port 22 is there already, as the node gpu-1"):
            service.workers.find(ME, "gpu-2", WorkerAddress("root@h"))

    @pytest.mark.parametrize(
        ("name", "address"),
        [
            ("gpu-1", WorkerAddress("")),
            ("GPU_1", WorkerAddress("root@h")),
            ("gpu-1", WorkerAddress("nowhere")),
            ("gpu-1", WorkerAddress("root@h", key_secret="../x")),
            ("gpu-1", WorkerAddress("root@h", chronos_cli="a\x1b[2J")),
        ],
    )
    def test_what_is_malformed(self, service: Service, name: str, address: WorkerAddress) -> None:
        with pytest.raises(UsageError):
            service.workers.find(ME, name, address)

    def test_a_set_up_for_one_user_is_what_the_node_is_reached_by(
        self, service: Service, outside: FakeInfrastructure
    ) -> None:
        service.store.create(node("gpu-1", ssh=SSH))
        said, answer = service.workers.setup(ME, "gpu-1", prefix="/home/me/c/")
        assert (said, answer) == (WorkerSaid("Chronos is ready.\n"), service.workers.ask(ME, "gpu-1"))
        assert service.store.get(GPU_1)["spec"]["ssh"]["chronosCli"] == "/home/me/c/bin/chronos_cli"
        assert len(list(service.workers.setup(ME, "gpu-1", dry_run=True))) == 1
        assert outside.workers.installed == [("gpu-1", "/home/me/c/", False), ("gpu-1", "", True)]
        with pytest.raises(UsageError, match="takes a whole path on gpu-1"):
            list(service.workers.setup(ME, "gpu-1", prefix="c"))
