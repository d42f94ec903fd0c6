"""Durable writes against raw SQLite commits and etcd; delivery of watches to other processes."""

from __future__ import annotations

import multiprocessing
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import orjson

from benchmarks.etcd import EtcdClient, server
from benchmarks.harness import LeftOut, Result, Row, in_rounds, limit, percentile, version_of
from cumulus.store.base import Document, Key
from cumulus.store.sqlite import SqliteStore

COUNT = 320
"""Writes of each side in each round: short rounds, so that both sides of a ratio meet the same machine."""
ROUNDS = 25
WRITERS = 16
PADDING = "x" * 600
"""Brings an object's JSON to about 1 KiB."""


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as directory:
        yield from _writes(Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        yield from _delivery(Path(directory), watchers=100, processes=10, writes=500)
    with tempfile.TemporaryDirectory() as directory:
        yield from _delivery(Path(directory), watchers=1000, processes=10, writes=200)


def document(name: str) -> Document:
    return {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "GPUJob",
        "metadata": {"name": name, "namespace": "default", "labels": {"bench": "yes"}},
        "spec": {
            "command": ["true"],
            "gpu": {"memory": "1Gi", "duration": "1h"},
            "env": [{"name": "PAD", "value": PADDING}],
        },
    }


def _writes(directory: Path) -> Iterator[Result]:
    """In turn, so that what else the machine does touches all sides alike."""
    version = version_of("etcd", "--version")
    rates: dict[str, list[float]] = {}
    store = SqliteStore(directory / "store")
    with ExitStack() as stack:
        stack.callback(store.close)
        clients = []
        if version is not None:
            address = stack.enter_context(server(directory))
            clients = [EtcdClient(address) for _ in range(WRITERS)]
        raw = stack.enter_context(closing(_raw_sqlite(directory / "raw.db")))
        for round in range(-1, ROUNDS):
            measured = {"floor": _rate(1, lambda i, j: _commit_raw(raw))} | _store_rates(store, round)
            if clients:
                measured |= _etcd_rates(clients, round)
            if round < 0:
                continue  # The first round opens files and fills caches.
            for name, rate in measured.items():
                rates.setdefault(name, []).append(rate)
        for client in clients:
            client.close()
    one, many = rates["one"], rates["many"]
    sqlite = f"raw SQLite {sqlite3.sqlite_version}, WAL, synchronous=FULL"
    what = "durable writes of 1 KiB, one writer"
    yield in_rounds(what, one, rates["floor"], at_least=0.5, unit="writes/s", peer_name=sqlite)
    what = "durable writes, 16 writers"
    yield in_rounds(what, many, one, at_least=3, unit="writes/s", peer_name="the store with one writer")
    if version is None:
        yield LeftOut("durable writes against etcd", "etcd is not installed (Debian: etcd-server)")
        return
    etcd = f"etcd {version.removeprefix('etcd Version: ')}"
    what = "durable writes, one client"
    yield in_rounds(what, one, rates["etcd-one"], at_least=2, unit="writes/s", peer_name=etcd)
    what = "durable writes, 16 clients"
    yield in_rounds(what, many, rates["etcd-many"], at_least=2, unit="writes/s", peer_name=etcd)


def _store_rates(store: SqliteStore, round: int) -> dict[str, float]:
    return {
        "one": _rate(1, lambda i, j: store.create(document(f"a{round}-{i}-{j}"))),
        "many": _rate(WRITERS, lambda i, j: store.create(document(f"b{round}-{i}-{j}"))),
    }


def _etcd_rates(clients: list[EtcdClient], round: int) -> dict[str, float]:
    value = orjson.dumps(document("x"))
    return {
        "etcd-one": _rate(1, lambda i, j: clients[0].put(b"a%d-%d-%d" % (round, i, j), value)),
        "etcd-many": _rate(WRITERS, lambda i, j: clients[i].put(b"b%d-%d-%d" % (round, i, j), value)),
    }


def _raw_sqlite(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE log(revision INTEGER PRIMARY KEY, object BLOB)")
    return connection


def _commit_raw(connection: sqlite3.Connection) -> None:
    """One row of 1 KiB."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO log(object) VALUES (?)", (b"x" * 1024,))
    connection.execute("COMMIT")


def _rate(threads: int, write: Callable[[int, int], object]) -> float:
    """Writes a second of `threads` threads together; `write` is called with the thread's number and a counter."""
    each = COUNT // threads

    def work(number: int) -> None:
        for count in range(each):
            write(number, count)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return threads * each / (time.perf_counter() - start)


def _delivery(directory: Path, *, watchers: int, processes: int, writes: int) -> Iterator[Result]:
    """One process writes the time into an object; others, `watchers` watches in all, note when they see it."""
    context = multiprocessing.get_context("spawn")
    store = SqliteStore(directory / "store")
    try:
        made = store.create({**document("tick"), "spec": {"sent": 0.0}})
        barrier, results = context.Barrier(processes + 1), context.Queue()
        since = int(made["metadata"]["resourceVersion"])
        each = watchers // processes
        arguments = (directory / "store", since, each, writes, barrier, results)
        readers = [context.Process(target=_watch, args=arguments) for _ in range(processes)]
        for reader in readers:
            reader.start()
        barrier.wait(60)
        # A pace that leaves the machine time to deliver: this measures delay, not throughput.
        pause = 0.02 if watchers <= 100 else 0.1
        for _ in range(writes):
            made = store.update({**made, "spec": {"sent": time.clock_gettime(time.CLOCK_MONOTONIC)}})
            time.sleep(pause)
        outcomes = [results.get(timeout=120) for _ in readers]
        for reader in readers:
            reader.join(30)
    finally:
        store.close()
    delays = [delay for found, _ in outcomes for delay in found]
    wrong = sum(errors for _, errors in outcomes)
    if watchers <= 100:
        what = f"commit to delivery in another process, p99, {watchers} watchers in {processes} processes"
        yield limit(what, percentile(delays, 0.99) * 1000, 10, unit="ms")
    exact = wrong == 0 and len(delays) == watchers * writes
    what = f"events lost, repeated or reordered, {watchers:,} watchers, {watchers * writes:,} deliveries"
    yield Row(what, str(wrong + watchers * writes - len(delays)), "0 (bound)", 0.0 if exact else 1.0, "0", exact)


def _watch(directory: Path, since: int, count: int, writes: int, barrier: Barrier, results: Any) -> None:
    store = SqliteStore(directory)
    watches = [store.watch(since=since) for _ in range(count)]
    delays: list[list[float]] = [[] for _ in watches]
    errors = [0] * count

    def follow(number: int) -> None:
        expected = since
        while len(delays[number]) < writes:
            events = watches[number].next(timeout=30)
            seen = time.clock_gettime(time.CLOCK_MONOTONIC)
            if not events:
                return
            for event in events:
                expected += 1
                errors[number] += event.revision != expected or event.key != Key("GPUJob", "default", "tick")
                delays[number].append(seen - event.document["spec"]["sent"])

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    barrier.wait(60)
    for thread in threads:
        thread.join()
    results.put(([delay for found in delays for delay in found], sum(errors)))
    store.close()
