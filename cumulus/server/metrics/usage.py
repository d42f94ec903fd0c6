"""What leases use of their devices, asked of the nodes now and then: a scrape never waits for one.

A node is asked as long as somebody reads the metrics, every `SECONDS` at most. NVIDIA's driver takes up to a second for
an answer, and a worker that is away as long as a connection waits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

from cumulus.chronos.contract import FULL_COMPUTE
from cumulus.chronos.contract.usage import LeasedUse, device_uses
from cumulus.clock import Clock
from cumulus.errors import ChronosError
from cumulus.nodes.agent import NodeAgent

_log = structlog.get_logger("cumulus.metrics")
SECONDS = 15.0
STALE_SECONDS = 60.0
"""What is older is not told: the node is away."""
_AT_ONCE = 8
_LABELS = ("node", "device")


class UsageMetrics:
    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self._clock = clock
        self._agents: Mapping[str, NodeAgent] = {}
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Sequence[LeasedUse]]] = {}
        self._asking = False
        self._asked = float("-inf")
        registry.register(self)

    def of(self, agents: Mapping[str, NodeAgent]) -> None:
        """The nodes to ask from now on."""
        self._agents = agents

    def describe(self) -> Sequence[Metric]:
        """Nothing: see `ObjectMetrics.describe`."""
        return ()

    def collect(self) -> Iterator[Metric]:
        now = self._clock.monotonic()
        with self._lock:
            known = {node: uses for node, (when, uses) in self._known.items() if now - when < STALE_SECONDS}
        self._ask_soon()
        families = [
            GaugeMetricFamily("cumulus_device_used_memory_bytes", "Memory that leases use.", labels=_LABELS),
            GaugeMetricFamily("cumulus_device_idle_memory_bytes", "Memory leased, not used.", labels=_LABELS),
            GaugeMetricFamily("cumulus_device_used_compute_ratio", "Compute that leases use.", labels=_LABELS),
            GaugeMetricFamily("cumulus_device_idle_compute_ratio", "Compute leased, not used.", labels=_LABELS),
            GaugeMetricFamily("cumulus_device_leases_over", "Leases that hold more than they leased.", labels=_LABELS),
        ]
        for node, uses in sorted(known.items()):
            for use in uses:
                figures = (
                    use.used_memory_bytes, use.idle_memory_bytes,
                    _ratio(use.used_compute), _ratio(use.idle_compute), use.over,
                )  # fmt: skip
                for family, figure in zip(families, figures, strict=True):
                    if figure is not None:
                        family.add_metric((node, str(use.device)), figure)
        return iter(families)

    def ask(self) -> None:
        """Ask every node once, and forget those that are gone."""
        agents = dict(self._agents)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="usage") as threads:
            list(threads.map(self._ask, agents.values()))
        with self._lock:
            self._known = {node: told for node, told in self._known.items() if node in agents}

    def _ask(self, agent: NodeAgent) -> None:
        try:
            uses = device_uses(agent.usage())
        except (ChronosError, OSError) as error:
            _log.debug("a node does not tell what its leases use", node=agent.name, error=str(error))
            return
        with self._lock:
            self._known[agent.name] = self._clock.monotonic(), uses

    def _ask_soon(self) -> None:
        with self._lock:
            now = self._clock.monotonic()
            if self._asking or now - self._asked < SECONDS:
                return
            self._asking, self._asked = True, now
        threading.Thread(target=self._ask_once, name="usage", daemon=True).start()

    def _ask_once(self) -> None:
        try:
            self.ask()
        finally:
            self._asking = False


def _ratio(compute: int | None) -> float | None:
    return None if compute is None else compute / FULL_COMPUTE
