"""Workers in networks of their own: cut off, half open, slow, and what becomes of their leases meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from cumulus.backends.base import Observed
from cumulus.chronos.contract import EndReason, Lease, LeaseState
from cumulus.chronos.ledger import Ledger
from cumulus.clock import SystemClock, parse_timestamp
from cumulus.controllers.job import view
from cumulus.controllers.node import controller
from cumulus.errors import Conflict, NodeUnreachable
from cumulus.lib.backoff import Backoff
from cumulus.nodes.address import WorkerHost
from cumulus.nodes.agent import NodeAgent
from cumulus.nodes.connection import NodeConnection, Waits
from cumulus.nodes.host_keys import KnownHosts, fetch
from cumulus.nodes.leases import RemoteLeases
from cumulus.resources import job_partitions
from cumulus.resources.job import GPUJob
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import ObjectMeta, condition
from cumulus.resources.node import GPUNode, GPUNodeSpec, SshAddress
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.server.control_plane import ControlPlane
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from cumulus.testing.backend import FakeBackend, Script
from tests.controllers.objects import a_job, a_partition
from tests.nodes.conftest import Worker, answers, connect
from tests.nodes.network import Network, SlowWay, networks
from tests.nodes.test_leases import request
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.ssh

BOUNDED = PATIENCE
"""Seconds: far more than what the waits below add up to, and far from the kernel's own quarter hour."""


IMPATIENT = Waits(connect=1.0, keepalive=1.0, silent=2.0, reconnect=Backoff(0.1, 0.5))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes made seconds."""
    monkeypatch.setattr(controller, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(controller, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(controller, "SILENT_SECONDS", 2.0)
    monkeypatch.setattr(view, "LOST_MARGIN", 2.0)
    monkeypatch.setattr(job_partitions, "GRACE", "1s")


class Site:
    """Two workers, each on a wire of its own."""

    def __init__(self, directory: Path, key: Path, wires: list[Network], known_hosts: KnownHosts) -> None:
        self.wires = {f"gpu-{n}": wire for n, wire in enumerate(wires)}
        self.workers = {
            name: Worker(directory / name, key, wire.host, wire.inside) for name, wire in self.wires.items()
        }
        self.known_hosts = known_hosts
        for worker in self.workers.values():
            known_hosts.add(worker.address, fetch(worker.address, 5))

    def leases(self, name: str) -> RemoteLeases:
        return connect(self.workers[name], self.known_hosts, waits=IMPATIENT)

    def ledger(self, name: str) -> Ledger:
        """What the worker itself knows."""
        return Ledger(self.workers[name].ledger, start_monitor=False)

    def agent(self, node: GPUNode) -> NodeAgent:
        leases = self.leases(node.metadata.name)
        return NodeAgent(node.metadata.name, leases, facts=lambda: leases.facts, close=leases.close)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()


@pytest.fixture
def site(tmp_path: Path, client_key: Path, known_hosts: KnownHosts) -> Iterator[Site]:
    with networks(2) as wires, ExitStack() as made:
        site = Site(tmp_path, client_key, wires, known_hosts)
        made.callback(site.close)
        yield site


def test_a_cut_node_is_silent_in_bounded_time_and_comes_back(site: Site) -> None:
    leases = site.leases("gpu-0")
    leases.devices()
    site.wires["gpu-0"].cut()
    begun = time.monotonic()
    with pytest.raises(NodeUnreachable):
        leases.list()
    assert time.monotonic() - begun < BOUNDED
    site.wires["gpu-0"].heal()
    eventually(lambda: answers(leases))


def test_a_half_open_connection_holds_nobody_up(site: Site) -> None:
    """The worker is started anew while it is cut off: it does not know the connection any more."""
    leases = site.leases("gpu-0")
    assert leases.list() == []
    site.wires["gpu-0"].cut()
    site.workers["gpu-0"].stop()
    site.workers["gpu-0"].start(wait=False)
    site.wires["gpu-0"].heal()
    begun = time.monotonic()
    eventually(lambda: answers(leases))
    assert time.monotonic() - begun < BOUNDED


def test_a_lease_ends_on_the_worker_while_it_is_cut_off(site: Site) -> None:
    leases = site.leases("gpu-0")
    leases.devices()
    asked = request(seconds=1.5, grace=0.1)
    leases.grant(asked)
    site.wires["gpu-0"].cut()
    there = site.ledger("gpu-0")
    eventually(lambda: there.list() == [])
    there.close()
    with pytest.raises(NodeUnreachable):
        leases.get(asked.id)
    site.wires["gpu-0"].heal()
    eventually(lambda: answers(leases))
    ended = leases.get(asked.id)
    assert ended is not None
    assert (ended.state, ended.end_reason) == (LeaseState.ENDED, EndReason.EXPIRED)


@pytest.mark.parametrize(
    "slowly",
    [
        'run() {{ [ "$1" != serve ] || exit 2; {} "$@"; sleep 3; }}; run',
        'run() {{ {} "$@" | while read -r line; do sleep 2; echo "$line"; done; }}; run',
    ],
    ids=["one by one", "served"],
)
def test_a_lost_answer_is_asked_for_again(site: Site, slowly: str) -> None:
    """The grant is made, and the wire is cut before it is told."""
    leases = site.leases("gpu-0")
    leases.devices()
    asked = request()
    command = site.workers["gpu-0"].command
    slow = connect(site.workers["gpu-0"], site.known_hosts, slowly.format(command), IMPATIENT)
    failed: list[Exception] = []

    def grant() -> None:
        try:
            slow.grant(asked)
        except NodeUnreachable as error:
            failed.append(error)

    there = site.ledger("gpu-0")
    thread = threading.Thread(target=grant)
    thread.start()
    eventually(lambda: there.get(asked.id) is not None)
    made = there.get(asked.id)
    there.close()
    site.wires["gpu-0"].cut()
    thread.join(PATIENCE)
    assert len(failed) == 1
    site.wires["gpu-0"].heal()
    eventually(lambda: answers(leases))
    again = leases.grant(asked)
    assert made is not None
    assert again.token == made.token
    assert len(leases.list()) == 1


def test_a_slow_way_changes_no_time(worker: Worker, known_hosts: KnownHosts) -> None:
    way = SlowWay("127.0.0.1", worker.address.port, 0.2)
    address = WorkerHost("127.0.0.1", worker.address.user, way.port)
    known_hosts.add(address, fetch(address, 10))
    slow = NodeConnection("far", address, known_hosts, key_path=worker.key_path, waits=Waits(connect=10.0))
    leases = RemoteLeases(slow, worker.command)
    leases.devices()
    asked = request(seconds=30)
    granted = leases.grant(asked)
    told = [granted.expires_at, *(lease.expires_at for _ in range(3) for lease in leases.list())]
    there = Ledger(worker.ledger, start_monitor=False)
    [lease] = there.list()
    there.close()
    true = parse_timestamp(lease.expires_at)
    assert all(abs((parse_timestamp(end) - true).total_seconds()) < 3 for end in told)
    assert leases.facts.clock_skew is not None
    assert abs(leases.facts.clock_skew) < 3
    leases.release(asked.id)
    leases.close()
    way.close()


# --- with the controllers


class Cuttable(FakeBackend):
    """Workloads that nothing ends, on nodes of which `cut` does not answer."""

    def __init__(self) -> None:
        super().__init__(SystemClock(), script=lambda _: Script(seconds=3600))
        self.cut = ""

    def get(self, name: str) -> Observed | None:
        found = super().get(name)
        if found is not None and found.node == self.cut:
            raise NodeUnreachable(f"{found.node} is cut off")
        return found


class Plane:
    """A control plane that reaches the site's workers by their GPUNodes alone."""

    def __init__(self, site: Site) -> None:
        self.store = MemoryStore()
        self.client = StoreClient(self.store)
        self.backend = Cuttable()
        self.site = site
        self._stop = threading.Event()
        manager = ControlPlane(self.store, [self.backend], [], connect=site.agent)
        self._thread = threading.Thread(target=manager.run, args=(self._stop,))
        self._thread.start()

    def add(self, *names: str) -> None:
        """Make the GPUNodes, and wait until they are Ready."""
        for name in names:
            address = self.site.workers[name].address
            ssh = SshAddress(host=address.host, port=address.port, user=address.user)
            self.client.create(GPUNode(metadata=ObjectMeta(name=name), spec=GPUNodeSpec(ssh=ssh)))
        eventually(lambda: all(self.ready(name) == "True" for name in names))

    def cordon(self, name: str, *, unschedulable: bool) -> None:
        while True:
            node = self.client.get(GPUNode, "", name)
            spec = node.spec.model_copy(update={"unschedulable": unschedulable})
            with suppress(Conflict):
                self.client.update(node.replace(spec=spec))
                return

    def cut(self, name: str) -> None:
        self.site.wires[name].cut()
        self.backend.cut = name

    def heal(self, name: str) -> None:
        self.site.wires[name].heal()
        self.backend.cut = ""

    def ready(self, name: str) -> str:
        ready = condition(self.client.get(GPUNode, "", name).status.conditions, "Ready")
        return "" if ready is None else ready.status

    def partition(self, name: str) -> GPUPartition:
        return self.client.get(GPUPartition, "default", name)

    def seconds_left(self) -> float:
        """Of the one partition's lease."""
        [partition] = self.client.list(GPUPartition)
        assert partition.status.expires_at is not None
        return (parse_timestamp(partition.status.expires_at) - SystemClock().now()).total_seconds()

    def job(self) -> GPUJob:
        return self.client.get(GPUJob, "default", "train")

    def leases(self, *names: str) -> list[Lease]:
        """Those that live on these workers, or on all, whatever the control plane believes."""
        found: list[Lease] = []
        for name in names or self.site.workers:
            ledger = self.site.ledger(name)
            found += ledger.list()
            ledger.close()
        return found

    def close(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.fixture
def plane(site: Site) -> Iterator[Plane]:
    plane = Plane(site)
    yield plane
    plane.close()


def test_nodes_come_and_go_and_a_cut_one_delays_no_other(plane: Plane) -> None:
    plane.add("gpu-0", "gpu-1")
    plane.cut("gpu-0")
    eventually(lambda: plane.ready("gpu-0") == "Unknown")
    beats = set()

    def beat() -> int:
        beats.add(plane.client.get(GPUNode, "", "gpu-1").status.heartbeat_time)
        return len(beats)

    eventually(lambda: beat() >= 4)
    eventually(lambda: plane.ready("gpu-1") == "True")
    sessions = plane.site.workers["gpu-0"].sessions
    # The sshd there may never hear of the end of the connection that was cut.
    cut = set(sessions())
    plane.heal("gpu-0")
    eventually(lambda: plane.ready("gpu-0") == "True")
    eventually(lambda: set(sessions()) - cut)
    plane.client.delete(plane.client.get(GPUNode, "", "gpu-0"))
    eventually(lambda: not set(sessions()) - cut)


def test_a_share_by_hand_stays_on_the_books_while_its_node_is_cut_off(plane: Plane) -> None:
    plane.add("gpu-0")
    plane.client.create(a_partition("mine", duration="60s", grace_period="0s"))
    eventually(lambda: plane.partition("mine").status.phase is PartitionPhase.ACTIVE)
    plane.cut("gpu-0")
    eventually(lambda: plane.ready("gpu-0") == "Unknown")
    assert plane.partition("mine").status.phase is PartitionPhase.ACTIVE
    plane.heal("gpu-0")
    eventually(lambda: plane.partition("mine").status.phase is PartitionPhase.EXPIRED)


def test_a_job_is_placed_anew_only_when_its_lease_is_surely_over(plane: Plane) -> None:
    plane.add("gpu-0", "gpu-1")
    plane.cordon("gpu-1", unschedulable=True)
    plane.client.create(a_job(memory="0.6", duration="30s"))
    eventually(lambda: plane.job().status.phase is JobPhase.RUNNING)
    # It was there before: a node that joins takes its time, and the lease is to be alive when the wire is cut.
    plane.cordon("gpu-1", unschedulable=False)
    eventually(lambda: plane.seconds_left() < 31, what="the node knows that the program has started")
    [first] = plane.client.list(GPUPartition)
    assert first.status.expires_at is not None
    plane.cut("gpu-0")
    eventually(lambda: plane.job().status.attempt_count == 2 or len(plane.leases()) > 1)
    assert plane.leases("gpu-0") == []
    assert SystemClock().now() > parse_timestamp(first.status.expires_at)
    assert plane.job().status.attempts[0].reason == "NodeLost"
    eventually(lambda: plane.job().status.attempts[-1].node == "gpu-1")
    plane.heal("gpu-0")
    eventually(lambda: first.uid not in {p.uid for p in plane.client.list(GPUPartition) if not p.status.phase.ended})
