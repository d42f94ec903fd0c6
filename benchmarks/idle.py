"""A settled control plane of 10,000 jobs: reaction to an event, writes of a resync, and what the idle daemon costs."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Result, Row, at_most, limit, percentile, until
from cumulus.chronos import monitor_control
from cumulus.resources.key import Document, Key
from cumulus.store.base import Query, Write
from cumulus.store.sqlite import SqliteStore
from tests.commands import CUMULUS

COUNT = 10_000
PROBES = 200
IDLE_SECONDS = 20


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as directory:
        yield from _growth(Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        yield from _daemon(Path(directory))


def suspended(number: int) -> Document:
    """A job that settles at once and stays: it is held."""
    return {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "GPUJob",
        "metadata": {"name": f"held-{number}", "namespace": "default"},
        "spec": {"command": ["true"], "gpu": {"memory": "10%", "duration": "1h"}, "suspend": True},
    }


def fill(store: SqliteStore, first: int, count: int) -> None:
    for start in range(first, first + count, 500):
        store.transact([Write("create", suspended(n)) for n in range(start, min(start + 500, first + count))])


def _growth(directory: Path) -> Iterator[Result]:
    """Processor time to create and list 1,000, 10,000 and 100,000 objects, each in a store of its own: sizes that
    differ so much cannot take turns. Medians of the quick ones."""
    seconds = {
        count: statistics.median(_create_and_list(directory / f"{count}-{round}", count) for round in range(rounds))
        for count, rounds in ((1_000, 5), (10_000, 3), (100_000, 1))
    }
    for count in (10_000, 100_000):
        what = f"processor time to create and list {count:,} objects against {count // 10:,}"
        yield at_most(what, seconds[count], seconds[count // 10], 12, unit="s", peer_name=f"{count // 10:,} objects")


def _create_and_list(directory: Path, count: int) -> float:
    store = SqliteStore(directory)
    start = time.process_time()
    fill(store, 0, count)
    token = ""
    while True:
        page = store.list(Query("GPUJob", limit=500, continue_token=token))
        token = page.continue_token
        if not token:
            break
    seconds = time.process_time() - start
    store.close()
    return seconds


def _daemon(home: Path) -> Iterator[Result]:
    env = {**os.environ, "CUMULUS_HOME": str(home / "c"), "CHRONOS_HOME": str(home / "chronos")}
    store = SqliteStore(home / "c" / "store")
    fill(store, 0, COUNT)
    with open(home / "log", "wb") as log:
        daemon = subprocess.Popen([CUMULUS, "serve"], env=env, stdout=log, stderr=log)
    try:
        until(lambda: _settled(store), seconds=300, what=f"{COUNT} jobs settle")
        time.sleep(5)
        yield from _quiet(store, daemon.pid)
        yield from _reaction(store)
    finally:
        daemon.terminate()
        daemon.wait(60)
        store.close()
        pid = monitor_control.running(home / "chronos")
        if pid:
            os.kill(pid, 15)
            until(lambda: monitor_control.running(home / "chronos") is None, seconds=30, what="the monitor stops")


def _settled(store: SqliteStore) -> bool:
    time.sleep(0.5)
    return not store.list(Query("GPUJob", fields="status.phase!=Suspended", limit=1)).items


def _quiet(store: SqliteStore, pid: int) -> Iterator[Result]:
    """Writes, processor time and memory of a daemon that has nothing to do."""
    watch = store.watch(since=store.revision())
    used = _cpu_seconds(pid)
    start = time.monotonic()
    time.sleep(IDLE_SECONDS)
    share = (_cpu_seconds(pid) - used) / (time.monotonic() - start) * 100
    kinds = [event.key.kind for event in watch.next(timeout=0.1) if event.key.kind not in ("Lease", "GPUNode")]
    watch.close()
    what = f"writes to {COUNT:,} settled objects in {IDLE_SECONDS} s"
    yield Row(
        what,
        str(len(kinds)),
        "0 (bound)",
        float(len(kinds)),
        "0",
        not kinds,
        "without heartbeats and the leader's lease",
    )
    yield limit(f"processor time of an idle daemon with {COUNT:,} jobs", share, 1, unit="% of a core")
    yield limit(f"resident memory of the daemon with {COUNT:,} jobs", _rss(pid) / 1e6, 200, unit="MB")


def _reaction(store: SqliteStore) -> Iterator[Result]:
    """From the commit of a change, made in another process than the daemon's, to the commit of the status that
    answers it (observedGeneration)."""
    seen: dict[tuple[str, int], float] = {}
    changed = threading.Condition()
    watch = store.watch(since=store.revision(), kinds=frozenset({"GPUJob"}))
    done = threading.Event()

    def follow() -> None:
        while not done.is_set():
            events = watch.next(timeout=0.5)
            now = time.monotonic()
            with changed:
                for event in events:
                    status = event.document.get("status") or {}
                    seen.setdefault((event.key.name, status.get("observedGeneration", 0)), now)
                changed.notify_all()

    follower = threading.Thread(target=follow)
    follower.start()
    delays = []
    for number in range(PROBES):
        job = store.get(Key("GPUJob", "default", f"held-{number * 37 % COUNT}"))
        written = store.update({**job, "spec": {**job["spec"], "priority": number + 1}})
        start = time.monotonic()
        key = (job["metadata"]["name"], written["metadata"]["generation"])
        with changed:
            if not changed.wait_for(lambda key=key: key in seen, timeout=30):
                raise TimeoutError(f"{key} was not observed")
        delays.append((seen[key] - start) * 1000)
        time.sleep(0.02)
    done.set()
    follower.join()
    watch.close()
    what = f"event to reconciled status in another process, p99 of {PROBES}, {COUNT:,} objects"
    yield limit(what, percentile(delays, 0.99), 20, unit="ms")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
