"""What the history costs: its size on disk, how fast it is written, and the timeline of a large pool."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import orjson

from benchmarks.harness import Result, limit, percentile
from cumulus import paths
from cumulus.clock import FakeClock
from cumulus.history.facts import to_milliseconds
from cumulus.history.recorder import HistoryRecorder
from cumulus.history.series import Sample
from cumulus.resources.key import Document
from cumulus.resources.query import WatchEvent
from cumulus.service.identity import Identity
from cumulus.service.service import Service
from cumulus.store.memory import MemoryStore
from cumulus.stores import empty_store
from tests.documents import NOW
from tests.history.leases import BEGIN, Held, machine

NODES, DEVICES, LEASES, RUNNING = 32, 8, 50_000, 400
DAYS = 30
BYTES, SECONDS, MILLISECONDS = 400, 0.5, 0.5
"""The bounds: for each lease on disk, for a picture of all of them, and for recording one. Time is that of a core: none
of it waits for a disk."""
ME = Identity("bench", 0)
ROUNDS = 7


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as directory:
        yield from _measure(Path(directory))


def _measure(home: Path) -> Iterator[Result]:
    clock = FakeClock(NOW)
    store: MemoryStore = empty_store()  # type: ignore[assignment]
    file = paths.history_file(home)
    rate = fill(store, home, clock)
    yield limit("milliseconds to record a lease", 1000 / rate, MILLISECONDS, unit="ms of a core")
    yield limit("bytes on disk for a lease", file.stat().st_size / LEASES, BYTES, unit="B")
    service = Service(lambda: store, home, clock)
    first, last = BEGIN, to_milliseconds(clock.now() + timedelta(hours=3))
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


def fill(store: MemoryStore, home: Path, clock: FakeClock) -> float:
    """A month of leases, told to the history as they begin and end, and those that run in the store too: now is then.
    How many leases were recorded in a second of a core."""
    file = paths.history_file(home)
    with closing(HistoryRecorder(file, clock, retention=1e9, every=60)) as recorder:
        machines = [machine(f"gpu-{number:02}", DEVICES) for number in range(NODES)]
        for node in machines:
            store.create(node)
        recorder.take("s", [WatchEvent("MODIFIED", 1, node) for node in machines])
        events = list(_events(random.Random(1)))
        start = time.process_time()
        recorder.take("s", events)
        rate = LEASES / (time.process_time() - start)
        clock.advance(DAYS * 86400)
        now = to_milliseconds(clock.now()) - BEGIN
        runs = [_held(LEASES + n, n % NODES, n % DEVICES, now - 3_600_000, 7_200_000) for n in range(RUNNING)]
        for held in runs:
            _, active = held.states()[-2]
            store.create(active)
            recorder.take("s", [WatchEvent("MODIFIED", 2, active)])
        for _ in range(5):
            clock.advance(60)
            uses = {held.uid: Sample(0.5, 0.5) for held in runs}
            for node in machines:
                recorder.sampled(node["metadata"]["name"], uses)
    return rate


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


def _events(rng: random.Random) -> Iterator[WatchEvent]:
    """Each device is leased in halves, one lease after another."""
    each = LEASES // (NODES * DEVICES * 2)
    lasts = DAYS * 86_400_000 / each
    made: list[tuple[int, Document]] = []
    for number in range(LEASES):
        place, turn = number % (NODES * DEVICES * 2), number // (NODES * DEVICES * 2)
        start = round(turn * lasts + rng.random() * lasts / 10)
        held = _held(number, place // 2 // DEVICES, place // 2 % DEVICES, start, lasts * (0.1 + 0.8 * rng.random()))
        made += held.states()[-2:]
    for number, (_, document) in enumerate(sorted(made, key=lambda one: one[0])):
        yield WatchEvent("MODIFIED", number + 2, document)


def _held(number: int, node: int, device: int, start: int, length: float) -> Held:
    return Held(
        number, f"user-{number % 40}", f"train-{number:06}", f"team-{number % 12}", "default", f"gpu-{node:02}", device,
        start, start + round(length), 50,
    )  # fmt: skip


if __name__ == "__main__":
    for result in run():
        print(result)
