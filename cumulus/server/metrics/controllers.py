"""How the controllers work, under controller-runtime's and client-go's names.

Source: kubebuilder.io, "Default exported metrics references".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from cumulus.machinery.instruments import Instruments, ReconcileOutcome
from cumulus.machinery.workqueue import WorkQueue

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_RESULTS = {
    ReconcileOutcome.SUCCESS: "success", ReconcileOutcome.REQUEUE: "requeue",
    ReconcileOutcome.REQUEUE_AFTER: "requeue_after", ReconcileOutcome.ERROR: "error",
    ReconcileOutcome.TERMINAL: "error", ReconcileOutcome.PANIC: "error",
}  # fmt: skip


class ControllerMetrics(Instruments):
    """Given to the control plane, which tells it what happens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queues: Mapping[str, WorkQueue] = {}
        self._workers: Mapping[str, int] = {}
        self._reconciles = Counter(
            "controller_runtime_reconcile", "Reconciles by result.", ("controller", "result"), registry=registry
        )
        self._errors = Counter(
            "controller_runtime_reconcile_errors", "Reconciles that failed.", ("controller",), registry=registry
        )
        self._terminal = Counter(
            "controller_runtime_terminal_reconcile_errors", "Reconciles given up until the object changes.",
            ("controller",), registry=registry,
        )  # fmt: skip
        self._panics = Counter(
            "controller_runtime_reconcile_panics", "Reconciles that ended in a defect.", ("controller",),
            registry=registry,
        )  # fmt: skip
        self._time = Histogram(
            "controller_runtime_reconcile_time_seconds", "How long a reconcile takes.", ("controller",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._adds = Counter("workqueue_adds", "Keys that were queued.", ("name",), registry=registry)
        self._retries = Counter("workqueue_retries", "Keys that are tried again.", ("name",), registry=registry)
        self._waited = Histogram(
            "workqueue_queue_duration_seconds", "How long a key waits for a worker.", ("name",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        registry.register(self)

    def leads(self, queues: Mapping[str, WorkQueue], workers: Mapping[str, int]) -> None:
        self._queues, self._workers = queues, workers

    def added(self, queue: str) -> None:
        self._adds.labels(queue).inc()

    def taken(self, queue: str, waited: float) -> None:
        self._waited.labels(queue).observe(waited)

    def retried(self, queue: str) -> None:
        self._retries.labels(queue).inc()

    def reconciled(self, controller: str, outcome: ReconcileOutcome, seconds: float) -> None:
        self._reconciles.labels(controller, _RESULTS[outcome]).inc()
        self._time.labels(controller).observe(seconds)
        if outcome in (ReconcileOutcome.ERROR, ReconcileOutcome.TERMINAL, ReconcileOutcome.PANIC):
            self._errors.labels(controller).inc()
        if outcome is ReconcileOutcome.TERMINAL:
            self._terminal.labels(controller).inc()
        if outcome is ReconcileOutcome.PANIC:
            self._panics.labels(controller).inc()

    def collect(self) -> Iterable[Metric]:
        """What is asked for when Prometheus asks."""
        queues, workers = self._queues, self._workers
        leads = GaugeMetricFamily("leader_election_master_status", "1 where this daemon leads.", labels=("name",))
        leads.add_metric(("cumulus-controller",), float(bool(queues)))
        yield leads
        depth = GaugeMetricFamily("workqueue_depth", "Keys that wait for a worker.", labels=("name",))
        working = GaugeMetricFamily(
            "controller_runtime_active_workers", "Workers that have a key.", labels=("controller",)
        )
        most = GaugeMetricFamily(
            "controller_runtime_max_concurrent_reconciles", "Workers in all.", labels=("controller",)
        )
        stalled = GaugeMetricFamily(
            "cumulus_controller_stalled_seconds", "For how long nothing was finished though keys are due.",
            labels=("controller",),
        )  # fmt: skip
        for name, queue in queues.items():
            depth.add_metric((name,), len(queue))
            working.add_metric((name,), queue.working)
            most.add_metric((name,), workers[name])
            stalled.add_metric((name,), queue.stalled())
        yield from (depth, working, most, stalled)
