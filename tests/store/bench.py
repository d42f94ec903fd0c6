"""How fast the SQLite store is, beside plain SQLite on the same disk at the same time.

Run with `python -m tests.store.bench [DIRECTORY]`; rounds of the two alternate, and the medians are compared, so
that other load on the machine meets both.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cumulus.store.base import Key, Query
from cumulus.store.sqlite import SqliteStore
from tests.store.conftest import thing

ROUNDS = 9
THREADS = 16
ROW = b"x" * 1024
SPEC = {"text": "x" * 800}
"""Makes an object of about 1 KiB of JSON with the store's metadata."""


def main() -> None:
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=parent) as place:
        compare_writes(Path(place))
        grow(Path(place))


def compare_writes(place: Path) -> None:
    """Durable commits per second: plain SQLite (1 KiB rows), the store alone, the store with 16 threads."""
    raw = sqlite3.connect(place / "raw.db", isolation_level=None)
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA synchronous = FULL")
    raw.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
    store = SqliteStore(place / "store")
    rates: dict[str, list[float]] = {"raw": [], "one": [], "sixteen": [], "update": []}
    for turn in range(ROUNDS):
        rates["raw"].append(rate(1000, insert, raw))
        rates["one"].append(rate(1000, create, store, f"one-{turn}"))
        rates["sixteen"].append(rate(4800, create_in_threads, store, f"many-{turn}"))
        rates["update"].append(rate(1000, update, store, f"one-{turn}-0"))
    store.close()
    raw.close()
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in median.items():
        print(f"{name:8} {value:8.0f} commits/s")
    print(f"one writer against plain SQLite: {median['one'] / median['raw']:.2f}")
    print(f"16 writers against one:          {median['sixteen'] / median['one']:.2f}")


def grow(place: Path) -> None:
    """100,000 objects: writes, reads and pages stay as fast as they were."""
    store = SqliteStore(place / "grown")
    for step in range(5):
        seconds = 20_000 / rate(20_000, create_in_threads, store, f"{step}")
        gets = rate(2000, read, store, f"{step}-3")
        pages = rate(50, read_pages, store)
        size = sum(f.stat().st_size for f in (place / "grown").iterdir()) / 1e6
        whole = time.perf_counter()
        count = len(store.list(Query("Thing")).items)
        whole = time.perf_counter() - whole
        print(
            f"{count:7} objects: 20,000 creates {seconds:5.1f} s, {gets:6.0f} gets/s, {pages:5.0f} pages/s, "
            f"whole list {whole:5.2f} s, {size:6.1f} MB"
        )
    store.close()


def rate(count: int, work: Callable[..., None], *arguments: object) -> float:
    """How many a second `work(*arguments, count)` does."""
    start = time.perf_counter()
    work(*arguments, count)
    return count / (time.perf_counter() - start)


def insert(raw: sqlite3.Connection, count: int) -> None:
    for _ in range(count):
        raw.execute("INSERT INTO t (data) VALUES (?)", (ROW,))


def create(store: SqliteStore, prefix: str, count: int) -> None:
    for n in range(count):
        store.create(thing(f"{prefix}-{n}", spec=SPEC))


def update(store: SqliteStore, name: str, count: int) -> None:
    for n in range(count):
        store.update_status(thing(name, status={"n": n}))


def read(store: SqliteStore, prefix: str, count: int) -> None:
    for n in range(count):
        store.get(Key("Thing", "default", f"{prefix}-{n % 1000}"))


def read_pages(store: SqliteStore, count: int) -> None:
    for _ in range(count):
        store.list(Query("Thing", limit=100))


def create_in_threads(store: SqliteStore, prefix: str, count: int, threads: int = THREADS) -> None:
    workers = [threading.Thread(target=create, args=(store, f"{prefix}-{n}", count // threads)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
