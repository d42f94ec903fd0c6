"""How long jobs wait for their first start, and how starts compare with what was planned for them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Histogram

from cumulus.clock import parse_timestamp
from cumulus.machinery.informer import Change
from cumulus.resources.documents import MALFORMED, lookup
from cumulus.resources.registry import BY_NAME
from cumulus.scheduling.cycle import Binding, Refusal

_WAITS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 86400.0, 7 * 86400.0)
_LATENESS = (-86400.0, -3600.0, -600.0, -60.0, -10.0, -1.0, 0.0, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0)


class StartMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._planned: dict[str, datetime] = {}
        self._to_start = Histogram(
            "cumulus_job_time_to_start_seconds", "From a job's creation to its first start.", ("namespace",),
            buckets=_WAITS, registry=registry,
        )  # fmt: skip
        self._late = Histogram(
            "cumulus_gang_start_lateness_seconds",
            "How much later than first planned a gang that had to wait got its devices; below 0: sooner.",
            buckets=_LATENESS, registry=registry,
        )  # fmt: skip

    def changed(self, change: Change) -> None:
        """An informer's handler. Never raises: a damaged job counts nowhere."""
        if change.before is None or not BY_NAME[change.key.kind].runs:
            return
        try:
            started = lookup(change.new, "status.startTime")
            if not started or lookup(change.old, "status.startTime"):
                return
            waited = parse_timestamp(started) - parse_timestamp(change.new["metadata"]["creationTimestamp"])
        except MALFORMED:
            return
        self._to_start.labels(change.key.namespace or "").observe(max(0.0, waited.total_seconds()))

    def placed(self, bindings: Sequence[Binding], refusals: Sequence[Refusal], now: datetime) -> None:
        """What a placement cycle decided. The first start that was planned for a gang is what it is measured by."""
        for binding in bindings:
            planned = self._planned.pop(binding.gang, None)
            if planned is not None:
                self._late.observe((now - planned).total_seconds())
        # Gangs that left the queue without a device are forgotten.
        known, self._planned = self._planned, {}
        for refusal in refusals:
            start = known.get(refusal.gang.name) or (refusal.reservation.start if refusal.reservation else None)
            if start is not None:
                self._planned[refusal.gang.name] = start
