from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cumulus.chronos.contract.usage import LeasedUse, LeaseUse, device_uses, lease_uses
from cumulus.clock import FakeClock
from cumulus.errors import NodeUnreachable
from cumulus.nodes.agent import NodeAgent
from cumulus.server.metrics.usage import UsageMetrics
from cumulus.testing.leases import FakeLeases, fake_device
from tests.documents import NOW
from tests.waiting import eventually


def _lease(device: int, leased: int, used: int | None, compute: int | None) -> dict[str, Any]:
    return {
        "partitionId": "l", "device": device, "memoryBytes": leased, "usedMemoryBytes": used,
        "idleMemoryBytes": None if used is None else max(0, leased - used), "compute": 500, "usedCompute": compute,
        "idleCompute": None if compute is None else 500 - compute, "over": used is not None and used > leased,
    }  # fmt: skip


def test_leases_are_summed_by_device_and_what_nobody_knows_counts_nowhere() -> None:
    leases = [_lease(1, 10, 12, 100), _lease(0, 10, 4, None), _lease(1, 10, 3, 400), _lease(1, 10, None, None)]
    assert device_uses(lease_uses(leases)) == [LeasedUse(0, 4, 6, None, None, 0), LeasedUse(1, 15, 7, 500, 500, 1)]


def _agent(name: str, answers: list[Any]) -> NodeAgent:
    def usage() -> list[LeaseUse]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return [answer]

    return NodeAgent(name, FakeLeases([fake_device(0)], FakeClock()), usage=usage)


USE = LeaseUse("l", 0, 10 * 2**30, 4 * 2**30, 6 * 2**30, 500, 250, None, False)


def _used(registry: CollectorRegistry, node: str) -> float | None:
    return registry.get_sample_value("cumulus_device_used_memory_bytes", {"node": node, "device": "0"})


def test_a_node_that_is_away_keeps_no_other_from_being_told_and_is_soon_not_told_itself() -> None:
    registry, clock = CollectorRegistry(), FakeClock(NOW)
    metrics = UsageMetrics(registry, clock)
    metrics.of({"here": _agent("here", [USE]), "away": _agent("away", [USE, NodeUnreachable("away")])})
    metrics.ask()
    assert (_used(registry, "here"), _used(registry, "away")) == (4 * 2**30, 4 * 2**30)
    labels = {"node": "here", "device": "0"}
    assert registry.get_sample_value("cumulus_device_used_compute_ratio", labels) == 0.25
    assert registry.get_sample_value("cumulus_device_idle_compute_ratio", labels) is None
    clock.advance(59)
    metrics.ask()
    clock.advance(2)
    assert (_used(registry, "here"), _used(registry, "away")) == (4 * 2**30, None)


def test_a_scrape_waits_for_no_node_and_asks_for_the_next_one() -> None:
    registry = CollectorRegistry()
    metrics = UsageMetrics(registry, FakeClock(NOW))
    metrics.of({"here": _agent("here", [USE])})
    assert _used(registry, "here") is None
    eventually(lambda: _used(registry, "here") == 4 * 2**30)


def test_a_node_that_is_gone_is_forgotten() -> None:
    registry = CollectorRegistry()
    metrics = UsageMetrics(registry, FakeClock(NOW))
    metrics.of({"here": _agent("here", [USE])})
    metrics.ask()
    metrics.of({})
    metrics.ask()
    assert _used(registry, "here") is None


@pytest.mark.parametrize("lease", [{}, {"device": 0}])
def test_another_shape_is_an_error(lease: dict[str, Any]) -> None:
    with pytest.raises(KeyError):
        lease_uses([lease])
