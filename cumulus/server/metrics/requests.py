"""The API's requests, under kube-apiserver's names."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class RequestMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("verb", "resource")
        self.total = Counter("apiserver_request", "Requests that were answered.", (*labels, "code"), registry=registry)
        self.seconds = Histogram(
            "apiserver_request_duration_seconds", "Until the whole answer was sent; no watches or followed logs.",
            labels, buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.running = Gauge(
            "apiserver_current_inflight_requests", "Requests that run, watches and followed logs too.",
            registry=registry,
        )  # fmt: skip
