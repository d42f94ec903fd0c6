"""All metrics of one daemon, and their text."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import InfoMetricFamily

from cumulus import __version__
from cumulus.clock import Clock
from cumulus.server.metrics.controllers import ControllerMetrics
from cumulus.server.metrics.grpc import GrpcMetrics
from cumulus.server.metrics.objects import ObjectMetrics
from cumulus.server.metrics.requests import RequestMetrics
from cumulus.server.metrics.starts import StartMetrics
from cumulus.server.metrics.usage import UsageMetrics
from cumulus.store.base import Store

# A series more for each counter and histogram, which nothing of ours asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]


class DaemonMetrics:
    """One for each daemon: nothing is global, so that tests can have several."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._registry = CollectorRegistry()
        self.controllers = ControllerMetrics(self._registry)
        self.starts = StartMetrics(self._registry)
        self.requests = RequestMetrics(self._registry)
        self.grpc = GrpcMetrics(self._registry)
        self.usage = UsageMetrics(self._registry, clock)
        ObjectMetrics(self._registry, store, clock)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(_Build())

    def exposition(self) -> bytes:
        """Prometheus' text format. Lists the store: it takes as long as that."""
        return generate_latest(self._registry)


class _Build:
    def collect(self) -> tuple[InfoMetricFamily]:
        return (InfoMetricFamily("cumulus_build", "Which version runs.", {"version": __version__}),)
