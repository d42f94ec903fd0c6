"""Schedules of leases as the store's log tells them, and what is to be remembered of them by the simplest account."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from cumulus.clock import timestamp
from cumulus.history.facts import to_milliseconds
from cumulus.resources.key import Document
from cumulus.resources.query import WatchEvent
from cumulus.resources.submitter import SUBMITTER
from tests.documents import NOW, node

BEGIN = to_milliseconds(NOW)
MEMORY = 80 * 2**30
MINUTE = 60_000


def at(milliseconds: int) -> str:
    """So long after `BEGIN`."""
    return timestamp(NOW + timedelta(milliseconds=milliseconds))


@dataclass(frozen=True)
class Held:
    """One lease; times are milliseconds after `BEGIN`."""

    number: int
    user: str
    job: str
    namespace: str
    queue: str
    node: str
    device: int
    start: int
    end: int
    share: int
    """Percent of the device."""

    @property
    def uid(self) -> str:
        return str(UUID(int=self.number + 1))

    def document(self, **status: Any) -> Document:
        owner = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "name": self.job, "uid": f"u-{self.number}",
                 "controller": True}  # fmt: skip
        return {
            "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUPartition",
            "metadata": {
                "name": f"p{self.number}", "namespace": self.namespace, "uid": self.uid, "ownerReferences": [owner],
                "creationTimestamp": at(self.start), "annotations": {SUBMITTER: self.user},
                "labels": {"cumulus.dev/attempt": "1", "cumulus.dev/replica": "0"},
            },
            "spec": {
                "memory": f"{self.share}%", "duration": "10h",
                "gang": {"name": f"{self.job}-a1", "size": 1, "since": at(self.start)},
            },
            "status": status,
        }  # fmt: skip

    def states(self) -> list[tuple[int, Document]]:
        """When it becomes what."""
        placed = {
            "node": self.node, "device": self.device, "deviceName": "H100", "queue": self.queue,
            "memoryBytes": MEMORY * self.share // 100, "compute": self.share * 10, "share": self.share * 10,
            "enforcement": "guarded", "conditions": [{"type": "Bound", "status": "True", "lastTransitionTime": at(0)}],
        }  # fmt: skip
        granted = {**placed, "activatedAt": at(self.start), "expiresAt": at(self.start + 600 * MINUTE)}
        started = {**granted, "startedAt": at(self.start + 1)}
        over = {**started, "endedAt": at(self.end)}
        return [
            (self.start, self.document(phase="Pending")), (self.start, self.document(phase="Bound", **placed)),
            (self.start, self.document(phase="Active", **granted)),
            (self.start, self.document(phase="Active", **started)),
            (self.end, self.document(phase="Released", **over)),
        ]  # fmt: skip


def machine(name: str, devices: int = 2, **spec: Any) -> Document:
    made = node(name, **spec)
    (device,) = made["status"]["devices"]
    made["status"]["devices"] = [{**device, "index": n, "id": f"GPU-{name}-{n}"} for n in range(devices)]
    made["metadata"]["uid"] = f"u-{name}"
    return made


@dataclass
class Schedule:
    """Leases that never take more of a device than there is."""

    seed: int
    count: int = 40
    nodes: Sequence[str] = ("gpu-1", "gpu-2")
    held: list[Held] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        while len(self.held) < self.count:
            start, length = (
                rng.randrange(0, 600 * MINUTE),
                rng.choice((rng.randrange(1, 500), 17 * MINUTE, 90 * MINUTE)),
            )
            made = Held(
                len(self.held), rng.choice(("ann", "bob", "=cmd()")), f"job-{rng.randrange(12)}",
                rng.choice(("lab", "default")), rng.choice(("", "vision")), rng.choice(self.nodes), rng.randrange(2),
                start, start + length, rng.choice((10, 25, 33, 50, 100)),
            )  # fmt: skip
            if self._fits(made):
                self.held.append(made)

    def _fits(self, made: Held) -> bool:
        others = [h for h in self.held if (h.node, h.device) == (made.node, made.device)]
        moments = [made.start, *(h.start for h in others if made.start <= h.start < made.end)]
        return all(made.share + sum(h.share for h in others if h.start <= m < h.end) <= 100 for m in moments)

    def events(self) -> list[WatchEvent]:
        """The log. Some partitions are deleted when they are over."""
        told = [(-1, machine(name)) for name in self.nodes]
        told += [state for held in self.held for state in held.states()]
        told.sort(key=lambda one: one[0])
        found: list[WatchEvent] = []
        for _, document in told:
            found.append(WatchEvent("MODIFIED", len(found) + 1, document))
            if document["kind"] == "GPUPartition" and document["status"]["phase"] == "Released":
                number = int(document["metadata"]["name"][1:])
                if number % 3 == 0:
                    found.append(WatchEvent("DELETED", len(found) + 1, document))
        return found

    def hours(self, since: int, until: int, of: str) -> dict[str, float]:
        """GPU-hours by user, queue or node, minute by minute of nothing but the leases."""
        found: dict[str, float] = {}
        for held in self.held:
            overlap = min(held.end, until) - max(held.start, since)
            if overlap > 0:
                name = getattr(held, of)
                found[name] = found.get(name, 0.0) + overlap * held.share / 100 / 3_600_000
        return found


def in_batches(events: Sequence[WatchEvent], rng: random.Random) -> Iterator[Sequence[WatchEvent]]:
    at = 0
    while at < len(events):
        size = rng.randrange(1, 30)
        yield events[at : at + size]
        at += size
