from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from cumulus.clock import FakeClock
from cumulus.errors import Conflict, NodeUnreachable
from cumulus.machinery.reconcile import Done, Permanent, Request, RequeueAfter, Result
from cumulus.machinery.runner import Runner
from cumulus.machinery.workqueue import WorkQueue
from cumulus.server.metrics.controllers import ControllerMetrics
from tests.documents import NOW

KEY = Request("default", "train")


class Controller:
    """Does what it is told, once each."""

    def __init__(self, *outcomes: Result | Exception) -> None:
        self._outcomes: Iterator[Result | Exception] = iter(outcomes)

    def reconcile(self, request: Request) -> Result:
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.mark.parametrize(
    ("outcome", "result", "errors", "terminal", "panics", "retries"),
    [
        (Done(), "success", 0, 0, 0, 0),
        (RequeueAfter(9), "requeue_after", 0, 0, 0, 0),
        (Conflict("stale"), "requeue", 0, 0, 0, 1),
        (NodeUnreachable("gone"), "error", 1, 0, 0, 1),
        (Permanent("never"), "error", 1, 1, 0, 0),
        (ValueError("a defect"), "error", 1, 0, 1, 1),
    ],
)
def test_a_reconcile_counts_by_what_came_of_it(
    outcome: Result | Exception, result: str, errors: float, terminal: float, panics: float, retries: float
) -> None:
    registry = CollectorRegistry()
    metrics = ControllerMetrics(registry)
    queue = WorkQueue("job", FakeClock(NOW), instruments=metrics)
    runner = Runner(Controller(outcome), queue, fenced=lambda: None, instruments=metrics)
    queue.add(KEY)
    runner.step()

    def value(metric: str, **labels: str) -> float:
        return registry.get_sample_value(metric, labels) or 0

    assert value("controller_runtime_reconcile_total", controller="job", result=result) == 1
    assert value("controller_runtime_reconcile_errors_total", controller="job") == errors
    assert value("controller_runtime_terminal_reconcile_errors_total", controller="job") == terminal
    assert value("controller_runtime_reconcile_panics_total", controller="job") == panics
    assert value("controller_runtime_reconcile_time_seconds_count", controller="job") == 1
    assert value("workqueue_retries_total", name="job") == retries


def test_a_queue_tells_its_depth_its_adds_and_how_long_keys_waited() -> None:
    registry = CollectorRegistry()
    metrics = ControllerMetrics(registry)
    clock = FakeClock(NOW)
    queue = WorkQueue("job", clock, instruments=metrics)
    metrics.leads({"job": queue}, {"job": 4})
    for name in ("a", "b", "c", "a"):
        queue.add(Request("default", name))
    clock.advance(2)
    queue.get(0)
    named, controlled = {"name": "job"}, {"controller": "job"}
    assert registry.get_sample_value("workqueue_depth", named) == 2
    assert registry.get_sample_value("workqueue_adds_total", named) == 3
    assert registry.get_sample_value("workqueue_queue_duration_seconds_sum", named) == 2
    assert registry.get_sample_value("controller_runtime_active_workers", controlled) == 1
    assert registry.get_sample_value("controller_runtime_max_concurrent_reconciles", controlled) == 4
    assert registry.get_sample_value("leader_election_master_status", {"name": "cumulus-controller"}) == 1


def test_queues_of_a_term_that_ended_are_not_told() -> None:
    registry = CollectorRegistry()
    metrics = ControllerMetrics(registry)
    metrics.leads({"job": WorkQueue("job", FakeClock(NOW))}, {"job": 4})
    metrics.leads({}, {})
    assert registry.get_sample_value("workqueue_depth", {"name": "job"}) is None
    assert registry.get_sample_value("leader_election_master_status", {"name": "cumulus-controller"}) == 0
