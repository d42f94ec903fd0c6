"""Leases: create and release, synced to disk, against a bare write and fsync; and how late leases end."""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Result, at_most, limit, percentile, until
from cumulus.chronos import monitor_control
from cumulus.chronos.contract import Device, LeaseRequest
from cumulus.chronos.ledger import Ledger
from cumulus.clock import parse_timestamp

COUNT = 500
LIVE = 1000
DEVICE = Device(0, "bench", "bench", "bench", "gpu", 1 << 40)


def run() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as directory:
        yield from _create_and_release(Path(directory))
    with tempfile.TemporaryDirectory() as directory:
        yield from _expiry(Path(directory))


def request(id: str, seconds: float) -> LeaseRequest:
    return LeaseRequest(id, device=0, memory_bytes=1, compute=1, seconds=seconds, grace=0)


def _create_and_release(directory: Path) -> Iterator[Result]:
    ledger = Ledger(directory / "chronos", discover=lambda: [DEVICE], start_monitor=False)
    times: dict[str, list[float]] = {"floor": [], "create": [], "release": []}
    record = b"x" * 256
    try:
        with open(directory / "floor", "ab", buffering=0) as floor:
            for number in range(COUNT):
                start = time.perf_counter()
                floor.write(record)
                os.fsync(floor.fileno())
                wrote = time.perf_counter()
                ledger.grant(request(f"l{number}", 3600))
                granted = time.perf_counter()
                ledger.release(f"l{number}")
                released = time.perf_counter()
                for name, seconds in zip(times, (wrote - start, granted - wrote, released - granted), strict=True):
                    times[name].append(seconds * 1000)
    finally:
        ledger.close()
    medians = {name: statistics.median(found) for name, found in times.items()}
    for verb in ("create", "release"):
        what = f"lease {verb}, synced to disk, median of {COUNT}"
        yield at_most(
            what, medians[verb], medians["floor"], 3, unit="ms", peer_name="bare write and fsync of 256 bytes"
        )


def _expiry(directory: Path) -> Iterator[Result]:
    """1,000 leases are live when the first ends; they end over two seconds. In each tenth a process runs."""
    home = directory / "chronos"
    ledger = Ledger(home, discover=lambda: [DEVICE])
    processes: dict[str, subprocess.Popen[bytes]] = {}
    due: dict[str, float] = {}
    gone: dict[str, float] = {}
    try:
        processes = {f"l{number}": subprocess.Popen(["sleep", "600"]) for number in range(0, LIVE, 10)}
        start = time.monotonic()
        for number in range(LIVE):
            # All end between 6 and 8 s from the start, however long the grants themselves take.
            id, left = f"l{number}", 6 + 2 * number / LIVE - (time.monotonic() - start)
            lease = ledger.grant(request(id, left))
            if id in processes:
                ledger.attach(id, processes[id].pid, lease.token)
                found = ledger.get(id)
                assert found is not None
                due[id] = time.monotonic() + found.expires_in
        took = time.monotonic() - start
        if took > 6:
            raise TimeoutError(f"granting {LIVE} leases took {took:.1f} s: some ended before all were live")
        _watch(processes, gone)
        until(lambda: not ledger.list(), seconds=60, what="all leases ended")
        late = [
            (parse_timestamp(lease.ended_at) - parse_timestamp(lease.expires_at)).total_seconds() * 1000
            for lease in ledger.list(ended=True)
        ]
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
        ledger.close()
        until(lambda: stopped(home), seconds=30, what="the monitor stops")
    errors = [(gone[id] - due[id]) * 1000 for id in due]
    ended = f"expiry error, p99 of {LIVE:,} live leases"
    yield limit(f"{ended}: a process in it is gone, {len(errors)} of them", percentile(errors, 0.99), 50, unit="ms")
    yield limit(f"{ended}: its share is free", percentile(late, 0.99), 50, unit="ms", note=f"max {max(late):.0f} ms")


def _watch(processes: dict[str, subprocess.Popen[bytes]], gone: dict[str, float]) -> None:
    """When each process ends."""
    ends = select.poll()
    handles = {os.pidfd_open(process.pid): id for id, process in processes.items()}
    for handle in handles:
        ends.register(handle, select.POLLIN)
    deadline = time.monotonic() + 60
    while handles:
        for handle, _ in ends.poll(100):
            gone[handles.pop(handle)] = time.monotonic()
            ends.unregister(handle)
            os.close(handle)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(handles)} processes do not end")


def stopped(home: Path) -> bool:
    """End the monitor that this benchmark's ledger started."""
    pid = monitor_control.running(home)
    if pid:
        os.kill(pid, 15)
    return pid is None
