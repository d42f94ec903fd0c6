"""Objects by phase, and what of each device is leased, as the store has it when Prometheus asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

from cumulus.chronos.contract import FULL_COMPUTE
from cumulus.clock import Clock, parse_timestamp
from cumulus.resources.documents import MALFORMED, condition, lookup
from cumulus.resources.key import Document
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.query import Query
from cumulus.resources.reasons import NodeCondition
from cumulus.resources.registry import KINDS
from cumulus.store.base import Store

_HELD = tuple(phase for phase in PartitionPhase if phase.holds)
_DEVICE = ("node", "device")


class ObjectMetrics:
    """A damaged object is left out of what it can't be counted in."""

    def __init__(self, registry: CollectorRegistry, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry that asks this need not list the store to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        found = {kind.name: self._store.list(Query(kind.name)).items for kind in KINDS}
        yield _by_phase(found)
        yield from _of_nodes(found[GPUNode.KIND], self._clock.now())
        yield from _of_leases(found[GPUPartition.KIND], self._clock.now())


def _by_phase(found: dict[str, list[Document]]) -> Metric:
    objects = GaugeMetricFamily("cumulus_objects", "Objects.", labels=("kind", "namespace", "phase"))
    for kind, documents in found.items():
        counted = Counter(
            (str(document["metadata"].get("namespace") or ""), str(lookup(document, "status.phase") or ""))
            for document in documents
        )
        for (namespace, phase), count in sorted(counted.items()):
            objects.add_metric((kind, namespace, phase), count)
    return objects


def _of_nodes(nodes: Sequence[Document], now: datetime) -> Iterator[Metric]:
    ready = GaugeMetricFamily("cumulus_node_ready", "1 where the node is ready.", labels=("node",))
    beat = GaugeMetricFamily("cumulus_node_heartbeat_age_seconds", "Since it last answered.", labels=("node",))
    info = GaugeMetricFamily(
        "cumulus_device_info", "1 for each device.", labels=(*_DEVICE, "id", "name", "vendor", "enforcement")
    )
    memory = GaugeMetricFamily("cumulus_device_memory_bytes", "Memory that can be leased.", labels=_DEVICE)
    leased = GaugeMetricFamily("cumulus_device_leased_memory_bytes", "Memory leased.", labels=_DEVICE)
    compute = GaugeMetricFamily("cumulus_device_leased_compute_ratio", "Part of the compute leased.", labels=_DEVICE)
    for node in nodes:
        name = str(node["metadata"]["name"])
        ready.add_metric((name,), float(condition(node, NodeCondition.READY).get("status") == "True"))
        if (left := _until(lookup(node, "status.heartbeatTime"), now)) is not None:
            beat.add_metric((name,), max(0.0, -left))
        for device in lookup(node, "status.devices") or ():
            try:
                labels = (name, str(device["index"]))
                size, free = device["memoryBytes"], device.get("freeMemoryBytes", 0)
                stray = device.get("overusedMemoryBytes") or 0
                stray += sum(process["memoryBytes"] for process in device.get("unleasedProcesses") or ())
                part = (FULL_COMPUTE - device.get("freeCompute", 0)) / FULL_COMPUTE
            except MALFORMED:
                continue
            described = (str(device.get(field) or "") for field in ("id", "name", "vendor", "enforcement"))
            info.add_metric((*labels, *described), 1.0)
            memory.add_metric(labels, size)
            leased.add_metric(labels, max(0, size - free - stray))
            compute.add_metric(labels, part)
    yield from (ready, beat, info, memory, leased, compute)
    yield from _of_figures(nodes)


_FIGURES = {
    "used_memory_bytes": ("usedMemoryBytes", "Memory in use by all processes, as the driver says.", 1.0),
    "busy_ratio": ("busy", "Part of the last moment with work.", 1.0 / FULL_COMPUTE),
    "power_watts": ("powerWatts", "Power drawn.", 1.0),
    "temperature_celsius": ("temperatureCelsius", "Temperature of the chip.", 1.0),
    "ecc_corrected_errors": ("eccCorrected", "Memory errors that were corrected, since the last reset.", 1.0),
    "ecc_uncorrected_errors": ("eccUncorrected", "Memory errors that were not, since the last reset.", 1.0),
}
"""Metric's name, after cumulus_device_driver_: field of status.devices[].figures, help, factor."""


def _of_figures(nodes: Sequence[Document]) -> Iterator[Metric]:
    """How the devices are, as the nodes last said."""
    families = {
        name: GaugeMetricFamily(f"cumulus_device_driver_{name}", text, labels=_DEVICE)
        for name, (_, text, _) in _FIGURES.items()
    }
    throttled = GaugeMetricFamily("cumulus_device_throttled", "1 for each reason.", labels=(*_DEVICE, "reason"))
    failed = GaugeMetricFamily("cumulus_device_failed", "1 where it has failed.", labels=_DEVICE)
    unleased = GaugeMetricFamily(
        "cumulus_device_unleased_memory_bytes", "Memory that processes hold without a lease.", labels=_DEVICE
    )
    overused = GaugeMetricFamily(
        "cumulus_device_overused_memory_bytes", "Memory that leases hold beyond their size.", labels=_DEVICE
    )
    for node in nodes:
        for device in lookup(node, "status.devices") or ():
            try:
                labels = (str(node["metadata"]["name"]), str(device["index"]))
                figures = device.get("figures")
                failed.add_metric(labels, float(bool(device.get("fault"))))
                held = sum(process["memoryBytes"] for process in device.get("unleasedProcesses") or ())
                unleased.add_metric(labels, held)
                overused.add_metric(labels, device.get("overusedMemoryBytes") or 0)
                for name, (field, _, factor) in _FIGURES.items():
                    if figures is not None and figures.get(field) is not None:
                        families[name].add_metric(labels, figures[field] * factor)
                for reason in (figures or {}).get("throttling") or ():
                    throttled.add_metric((*labels, str(reason)), 1.0)
            except MALFORMED:
                continue
    yield from (*families.values(), throttled, failed, unleased, overused)


def _of_leases(partitions: Sequence[Document], now: datetime) -> Iterator[Metric]:
    counted: Counter[tuple[str, str]] = Counter()
    latest: dict[tuple[str, str], float] = {}
    for partition in partitions:
        status = partition.get("status") or {}
        if status.get("phase") not in _HELD:
            continue
        device = (str(status.get("node") or ""), str(status.get("device")))
        counted[device] += 1
        if (left := _until(status.get("expiresAt"), now)) is not None:
            latest[device] = max(latest.get(device, 0.0), left)
    leases = GaugeMetricFamily("cumulus_device_leases", "Leases of partitions that are held.", labels=_DEVICE)
    for device, count in sorted(counted.items()):
        leases.add_metric(device, count)
    free = GaugeMetricFamily(
        "cumulus_device_free_in_seconds", "Until the last lease that is held now ends.", labels=_DEVICE
    )
    for device, seconds in sorted(latest.items()):
        free.add_metric(device, seconds)
    yield from (leases, free)


def _until(moment: object, now: datetime) -> float | None:
    """Seconds; None where nothing says when, or nothing that can be read."""
    try:
        return (parse_timestamp(str(moment)) - now).total_seconds() if moment else None
    except MALFORMED:
        return None
