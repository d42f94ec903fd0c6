"""What the columns of `registry` show: from an object's JSON to the text of a cell.

`text`, `age`, `until`, `bytes` and `millis` look at the column's path; the others look at the whole object,
and a job's at its partitions too, which are read only when such a column is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from cumulus.clock import parse_timestamp
from cumulus.resources.documents import condition, lookup
from cumulus.resources.key import Document
from cumulus.resources.quantity import format_bytes, format_duration
from cumulus.resources.registry import Column

NOTHING = "-"
UNKNOWN = "?"
PartitionsOf = Callable[[Document], Sequence[Document]]
"""The partitions that belong to a job."""

ENDED = ("Expired", "Released", "Failed")
"""The phases of a partition whose lease is over."""


class Cells:
    """Computes cells as of `now`. `partitions_of` is asked for columns about a job's leases alone."""

    def __init__(self, now: datetime, partitions_of: PartitionsOf = lambda _: ()) -> None:
        self.now = now
        self.partitions_of = partitions_of

    def row(self, columns: Sequence[Column], document: Document) -> list[str]:
        return [self.cell(column, document) for column in columns]

    def cell(self, column: Column, document: Document) -> str:
        """The text of one cell, `-` where there is nothing to show, UNKNOWN on damaged objects."""
        try:
            whole = _WHOLE.get(column.form)
            if whole is not None:
                return whole(document) or NOTHING
            if column.form == "job-lease":
                return self._job_lease(document) or NOTHING
            if column.form == "node-status":
                return node_status(document, self.now)
            if column.form == "until" and lookup(document, "status.phase") in ENDED:
                return "ended"
            return self._value(column.form, lookup(document, column.path)) or NOTHING
        except (TypeError, ValueError, AttributeError, KeyError):
            return UNKNOWN

    def _value(self, form: str, value: Any) -> str:
        if value is None or value == "":
            return ""
        match form:
            case "age":
                return age(value, self.now)
            case "until":
                return until(value, self.now)
            case "bytes":
                return format_bytes(int(value)) if value else ""
            case "millis":
                return percent(int(value)) if value else ""
            case _:
                return text(value)

    def _job_lease(self, job: Document) -> str:
        ends = [p["status"]["expiresAt"] for p in self.partitions_of(job) if lookup(p, "status.phase") == "Active"]
        return f"in {until(min(ends), self.now)}" if ends else ""


def text(value: Any) -> str:
    """A value for a person: lists joined by commas."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(text(item) for item in value)
    return str(value)


def age(moment: str, now: datetime) -> str:
    """The time since `moment`, as kubectl shows ages; clocks that differ never make it negative."""
    return format_duration(max(0, int((now - parse_timestamp(moment)).total_seconds())))


def until(moment: str, now: datetime) -> str:
    """The time left until `moment`, `ended` when it is over."""
    left = int((parse_timestamp(moment) - now).total_seconds())
    return format_duration(left) if left > 0 else "ended"


def percent(millis: int) -> str:
    """Thousandths of a device: 250 is 25%."""
    return f"{millis / 10:g}%"


def job_node(job: Document) -> str:
    """The nodes of the last attempt, unless the job only waits for its next."""
    attempts = lookup(job, "status.attempts") or []
    if not attempts:
        return ""
    last = attempts[-1]
    if last.get("endTime") and lookup(job, "status.phase") in ("Pending", "Suspended"):
        return ""
    nodes = list(dict.fromkeys(last.get("nodes") or [last.get("node", "")]))
    return ",".join(nodes)


def job_attempts(job: Document) -> str:
    """How many attempts have started: one is counted by the controllers when it begins to wait for its share."""
    waiting = [a for a in lookup(job, "status.attempts") or () if not a.get("startTime")]
    return str((lookup(job, "status.attemptCount") or 0) - len(waiting))


def job_gpu(job: Document) -> str:
    """What a job leases: `0.5 for 1h`, with devices and replicas where there are several: `4x2x 20Gi for 1h`."""
    gpu = lookup(job, "spec.gpu") or {}
    counts = [n for n in (lookup(job, "spec.replicas") or 1, gpu.get("count") or 1) if n != 1]
    times = "".join(f"{n}x" for n in counts) + (" " if counts else "")
    return f"{times}{gpu.get('memory', '?')} for {duration(gpu.get('duration', ''))}"


def duration(value: str) -> str:
    """A duration as written, plain seconds in larger units."""
    return format_duration(float(value)) if value.isdigit() else value


def job_reason(job: Document) -> str:
    """Why the job is where it is: the reason of the condition that its phase rests on."""
    phase = lookup(job, "status.phase") or "Pending"
    for type in _REASON_OF_PHASE.get(phase, ()):
        found = condition(job, type)
        if found.get("reason") and (type == phase) == (found.get("status") == "True"):
            return str(found["reason"])
    return ""


_REASON_OF_PHASE = {
    "Pending": ("Scheduled", "PartitionsReady", "Running"),
    "Scheduled": ("PartitionsReady", "Running"),
    "Running": ("Running",),
    "Checkpointing": ("Running",),
    "Suspended": ("Suspended",),
    "Succeeded": ("Succeeded",),
    "Failed": ("Failed",),
}


SILENT_SECONDS = 60.0
"""A heartbeat is written every 20 s, and after 40 s without one the controllers take Ready back: if they run."""


def node_status(node: Document, now: datetime) -> str:
    """How it is, and whether it is cordoned: `Ready,SchedulingDisabled` as kubectl says it."""
    state = node_state(node, now)
    return f"{state},SchedulingDisabled" if lookup(node, "spec.unschedulable") else state


def node_state(node: Document, now: datetime) -> str:
    """Ready, NotReady or Unknown; `Unknown (silent for 3h)` where nobody has heard of it for so long, whatever its
    condition says."""
    if is_silent(node, now):
        return f"Unknown (silent for {age(lookup(node, 'status.heartbeatTime'), now)})"
    return {"True": "Ready", "False": "NotReady"}.get(condition(node, "Ready").get("status", ""), "Unknown")


def is_silent(node: Document, now: datetime) -> bool:
    """Whether nobody has heard of the node for longer than a daemon that runs would leave it called Ready."""
    heartbeat = lookup(node, "status.heartbeatTime")
    return bool(heartbeat) and (now - parse_timestamp(heartbeat)).total_seconds() >= SILENT_SECONDS


def node_devices(node: Document) -> str:
    """`2x NVIDIA H100 80Gi, 1x cpu 7.6Gi`: devices of one name and size are counted together."""
    counted: dict[tuple[str, int], int] = {}
    for device in devices(node):
        key = (device["name"], device["memoryBytes"])
        counted[key] = counted.get(key, 0) + 1
    return ", ".join(f"{count}x {name} {format_bytes(size)}" for (name, size), count in counted.items())


def node_free(node: Document) -> str:
    """What is free of each device, memory and compute: `40Gi 50%, 80Gi 100%`."""
    return ", ".join(f"{format_bytes(d['freeMemoryBytes'])} {percent(d['freeCompute'])}" for d in devices(node))


def devices(node: Document) -> list[Document]:
    return list(lookup(node, "status.devices") or ())


def event_object(event: Document) -> str:
    """`gpujob/NAME`."""
    about = event.get("involvedObject") or {}
    return f"{about.get('kind', '?').lower()}/{about.get('name', '?')}"


_WHOLE: dict[str, Callable[[Document], str]] = {
    "job-node": job_node,
    "job-gpu": job_gpu,
    "job-reason": job_reason,
    "job-attempts": job_attempts,
    "node-devices": node_devices,
    "node-free": node_free,
    "event-object": event_object,
}
