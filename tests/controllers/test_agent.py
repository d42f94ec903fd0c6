from __future__ import annotations

from typing import Any

from cumulus.clock import FakeClock
from cumulus.machinery.cache import StoreReader
from cumulus.nodes.agent import Agents, NodeAgent
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.node import GPUNode, GPUNodeSpec, SshAddress
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from cumulus.testing.leases import FakeLeases, fake_device


class Connector:
    """Makes agents, and remembers to what, and which were closed."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.closed: list[str] = []

    def __call__(self, node: GPUNode) -> NodeAgent:
        assert node.spec.ssh is not None
        host = node.spec.ssh.host
        self.made.append(host)
        return agent(node.metadata.name, close=lambda: self.closed.append(host))


def agent(name: str, **fields: Any) -> NodeAgent:
    return NodeAgent(name, FakeLeases([fake_device(0)], FakeClock()), **fields)


def node(name: str, host: str = "") -> GPUNode:
    ssh = SshAddress(host=host, user="root") if host else None
    return GPUNode(metadata=ObjectMeta(name=name), spec=GPUNodeSpec(ssh=ssh))


def test_agents_come_change_and_go_with_their_nodes() -> None:
    store, connect = MemoryStore(), Connector()
    client = StoreClient(store)
    agents = Agents(StoreReader(store), [agent("here")], connect)
    far = client.create(node("far", "10.0.0.1"))
    client.create(node("plain"))
    assert sorted(agents) == ["far", "here"]
    assert agents.get("plain") is None
    first = agents["far"]
    assert agents["far"] is first

    cordoned = client.update(far.replace(spec=far.spec.model_copy(update={"unschedulable": True})))
    assert agents["far"] is first
    moved = client.update(cordoned.replace(spec=node("far", "10.0.0.2").spec))
    assert agents["far"] is not first
    assert (connect.made, connect.closed) == (["10.0.0.1", "10.0.0.2"], ["10.0.0.1"])

    client.delete(moved)
    assert agents.get("far") is None
    assert connect.closed == ["10.0.0.1", "10.0.0.2"]
    client.create(node("far", "10.0.0.2"))
    assert agents["far"] is not first
    agents.close()
    assert connect.closed == ["10.0.0.1", "10.0.0.2", "10.0.0.2"]


def test_the_daemon_s_own_node_is_never_reached_otherwise() -> None:
    store, connect = MemoryStore(), Connector()
    here = agent("here")
    StoreClient(store).create(node("here", "10.0.0.1"))
    agents = Agents(StoreReader(store), [here], connect)
    assert agents["here"] is here
    assert list(agents) == ["here"]
    assert connect.made == []


def test_without_a_connector_nobody_is_reached() -> None:
    store = MemoryStore()
    StoreClient(store).create(node("far", "10.0.0.1"))
    agents = Agents(StoreReader(store), [])
    assert list(agents) == []
    assert agents.get("far") is None
