from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from cumulus.machinery.informer import Change
from cumulus.resources.key import Document, key_of
from cumulus.scheduling.cycle import BackfillReservation, Binding, Refusal
from cumulus.scheduling.snapshot import Gang
from cumulus.server.metrics.starts import StartMetrics
from tests.documents import NOW, ago, job


def _changed(before: Document | None, after: Document) -> Change:
    return Change("MODIFIED", key_of(after), None if before is None else orjson.dumps(before), after)


def _started(at: str) -> Document:
    document = job("train", status={"phase": "Running", "startTime": at})
    document["metadata"]["creationTimestamp"] = ago(seconds=100)
    return document


def test_a_jobs_wait_counts_once_when_it_starts_first() -> None:
    registry = CollectorRegistry()
    starts = StartMetrics(registry)
    pending, started = job("train", status={"phase": "Pending"}), _started(ago(seconds=60))
    starts.changed(_changed(pending, started))
    starts.changed(_changed(started, started))
    # Known from a list alone, as after a restart: it may have started long ago.
    starts.changed(_changed(None, started))
    labels = {"namespace": "default"}
    assert registry.get_sample_value("cumulus_job_time_to_start_seconds_count", labels) == 1
    assert registry.get_sample_value("cumulus_job_time_to_start_seconds_sum", labels) == 40


def test_a_damaged_job_counts_nowhere() -> None:
    registry = CollectorRegistry()
    starts = StartMetrics(registry)
    starts.changed(_changed(job("train", status={"phase": "Pending"}), _started("yesterday")))
    assert registry.get_sample_value("cumulus_job_time_to_start_seconds_count", {"namespace": "default"}) is None


def _refusal(name: str, start: Any) -> Refusal:
    gang = Gang(name, (), 60, 0, NOW, "", "")
    return Refusal(gang, 1, None if start is None else BackfillReservation(name, start, ()), False)


def _binding(name: str) -> Binding:
    return Binding(None, "", name, "gpu-1", 0, "", 0, 0, None)  # type: ignore[arg-type]


def test_a_start_is_measured_by_the_first_that_was_planned() -> None:
    registry = CollectorRegistry()
    starts = StartMetrics(registry)
    starts.placed([], [_refusal("a", None), _refusal("b", NOW), _refusal("gone", NOW)], NOW)
    starts.placed([], [_refusal("a", NOW + timedelta(seconds=60)), _refusal("b", NOW + timedelta(hours=1))], NOW)
    # `c` never waited, and `gone` came back after it had left the queue: neither was planned.
    bound = [_binding(name) for name in ("a", "b", "c", "gone")]
    starts.placed(bound, [], NOW + timedelta(seconds=50))
    assert registry.get_sample_value("cumulus_gang_start_lateness_seconds_count") == 2
    # 10 seconds sooner, and 50 later. A histogram with values below 0 has no sum.
    assert registry.get_sample_value("cumulus_gang_start_lateness_seconds_bucket", {"le": "-10.0"}) == 1
    assert registry.get_sample_value("cumulus_gang_start_lateness_seconds_bucket", {"le": "10.0"}) == 1
