"""Calls over gRPC, under the names of grpc-ecosystem's Prometheus interceptors. The gRPC server is another process: its
counts come in its log, every few seconds."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter


class GrpcMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._handled = Counter(
            "grpc_server_handled", "Calls that were answered.", ("grpc_method", "grpc_code"), registry=registry
        )
        self._seconds = Counter(
            "grpc_server_handling_seconds", "Time that they took, as long as streams lasted.", ("grpc_method",),
            registry=registry,
        )  # fmt: skip

    def add(self, counts: Iterable[tuple[str, str, int, float]]) -> None:
        """Method, code, how many calls, and seconds of all of them."""
        for method, code, calls, seconds in counts:
            self._handled.labels(method, code).inc(calls)
            self._seconds.labels(method).inc(seconds)
