"""What the history costs: its size on disk, how fast it is written, and the timeline of a large pool."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from benchmarks.harness import Result, limit, percentile
from cumulus import paths
from cumulus.clock import FakeClock, timestamp
from cumulus.history.facts import to_milliseconds
from cumulus.history.recorder import Recorder
from cumulus.history.series import Sample
from cumulus.resources.key import Document
from cumulus.resources.query import Event
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from cumulus.stores import empty_store

NODES, DEVICES, LEASES, RUNNING = 32, 8, 50_000, 400
DAYS = 30
BYTES, SECONDS, MILLISECONDS = 400, 0.5, 0.5
"""The bounds: for each lease on disk, for a picture of all of them, and for recording one. Time is that of a core: none
of it waits for a disk."""
ME = Identity("bench", 0)
MEMORY = 80 * 2**30
ROUNDS = 7


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as directory:
        yield from _measure(Path(directory))


def _measure(home: Path) -> Iterator[Result]:
    clock = FakeClock()
    began = clock.now()
    rng = random.Random(1)
    store: MemoryStore = empty_store()  # type: ignore[assignment]
    file = paths.history_file(home)
    with closing(Recorder(file, clock, retention=1e9, every=60)) as recorder:
        machines = [_node(f"gpu-{number:02}") for number in range(NODES)]
        for machine in machines:
            store.create(machine)
        recorder.take("s", [Event("MODIFIED", 1, machine) for machine in machines])
        events = list(_events(clock, rng))
        start = time.process_time()
        recorder.take("s", events)
        rate = LEASES / (time.process_time() - start)
        clock.advance(DAYS * 86400)
        for number in range(RUNNING):
            held = _partition(clock, LEASES + number, number % NODES, number % DEVICES, -3600, 7200, percent=50)
            store.create(held)
            recorder.take("s", [Event("MODIFIED", 2, held)])
        for _ in range(5):
            clock.advance(60)
            uses = {str(UUID(int=LEASES + number)): Sample(0.5, 0.5) for number in range(RUNNING)}
            for machine in machines:
                recorder.sampled(machine["metadata"]["name"], uses)
    yield limit("milliseconds to record a lease", 1000 / rate, MILLISECONDS, unit="ms of a core")
    yield limit("bytes on disk for a lease", file.stat().st_size / LEASES, BYTES, unit="B")
    service = Service(lambda: store, home, clock)
    first, last = to_milliseconds(began), to_milliseconds(clock.now() + timedelta(hours=3))
    for what, begin in (("a month", first), ("a day", last - 86_400_000), ("an hour", last - 4 * 3_600_000)):
        taken, size, spans = _timed(service, begin, last)
        yield limit(
            f"timeline of {NODES * DEVICES} devices, {LEASES:,} leases: {what}", taken, SECONDS, unit="s",
            note=f"{spans:,} spans, {size / 1e6:.1f} MB of JSON",
        )  # fmt: skip
    start = time.process_time()
    service.history.report(ME, first)
    yield limit(f"report of {LEASES:,} leases", time.process_time() - start, SECONDS, unit="s")
    service.close()


def _timed(service: Service, start: int, end: int) -> tuple[float, int, int]:
    """Seconds until the answer is JSON, the median; its size, and how many spans it has."""
    taken, size, spans = [], 0, 0
    for _ in range(ROUNDS):
        began = time.process_time()
        found = service.history.timeline(ME, start, end, 1280)
        size = len(orjson.dumps(found))
        taken.append(time.process_time() - began)
        spans = sum(len(lane["spans"]) for lane in found["lanes"])
    return percentile(taken, 0.5), size, spans


def _events(clock: FakeClock, rng: random.Random) -> Iterator[Event]:
    """Each device is leased in halves, one lease after another."""
    each = LEASES // (NODES * DEVICES * 2)
    lasts = DAYS * 86400 / each
    made: list[tuple[float, Document]] = []
    for number in range(LEASES):
        place, turn = number % (NODES * DEVICES * 2), number // (NODES * DEVICES * 2)
        node, device = place // 2 // DEVICES, place // 2 % DEVICES
        start = turn * lasts + rng.random() * lasts / 10
        length = lasts * (0.1 + 0.8 * rng.random())
        made += [
            (start, _partition(clock, number, node, device, start, length, percent=50)),
            (start + length, _partition(clock, number, node, device, start, length, percent=50, over=True)),
        ]
    for number, (_, document) in enumerate(sorted(made, key=lambda one: one[0])):
        yield Event("MODIFIED", number + 2, document)


def _node(name: str) -> Document:
    devices = [
        {"index": index, "id": f"GPU-{name}-{index}", "name": "NVIDIA H100 80GB HBM3", "memoryBytes": MEMORY}
        for index in range(DEVICES)
    ]
    status = {"devices": devices, "conditions": [{"type": "Ready", "status": "True"}]}
    return {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": name}, "spec": {},
        "status": status,
    }  # fmt: skip


def _partition(
    clock: FakeClock, number: int, node: int, device: int, start: float, length: float, *, percent: int,
    over: bool = False,
) -> Document:  # fmt: skip
    def moment(seconds: float) -> str:
        return timestamp(clock.now() + timedelta(seconds=seconds))

    job = f"train-{number:06}"
    owners: Sequence[dict[str, Any]] = [
        {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "name": job, "uid": f"u-{number}", "controller": True}
    ]
    status = {
        "phase": "Expired" if over else "Active", "node": f"gpu-{node:02}", "device": device,
        "deviceName": "NVIDIA H100 80GB HBM3", "memoryBytes": MEMORY * percent // 100, "compute": percent * 10,
        "share": percent * 10, "queue": "default", "enforcement": "guarded", "activatedAt": moment(start),
        "expiresAt": moment(start + length), **({"endedAt": moment(start + length)} if over else {}),
    }  # fmt: skip
    return {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUPartition",
        "metadata": {
            "name": f"{job}-a1-r0-d0", "namespace": f"team-{number % 12}", "uid": str(UUID(int=number)),
            "ownerReferences": owners, "annotations": {"cumulus.dev/submitter": f"user-{number % 40}"},
        },
        "spec": {"memory": f"{percent}%", "duration": "4h"}, "status": status,
    }  # fmt: skip


if __name__ == "__main__":
    for result in run():
        print(result)
