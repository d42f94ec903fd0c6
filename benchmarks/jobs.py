"""Jobs from apply to Succeeded, on the fake backend and on real processes, against Slurm; and growth."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import slurm
from benchmarks.harness import LeftOut, Result, at_least, at_most, reported, until, version_of
from cumulus import log
from cumulus.apply.apply import apply
from cumulus.backends.base import Backend
from cumulus.backends.fake import FakeBackend, Script
from cumulus.backends.process.backend import ProcessBackend
from cumulus.chronos.fake import FakeLeases, fake_device
from cumulus.chronos.lease import Device
from cumulus.chronos.ledger import Ledger
from cumulus.clock import SystemClock
from cumulus.controllers.agent import NodeAgent
from cumulus.controllers.manager import Manager
from cumulus.manifest import Manifest, load_text
from cumulus.secrets import SecretStore
from cumulus.store.base import Store
from cumulus.store.sqlite import SqliteStore

COUNT = 10_000
FEW = 500
NODES, DEVICES = 16, 8
SLOTS = 64
"""Jobs at once on this machine, for the process backend and for Slurm alike."""
TELL_EVERY = 0.25

JOB = """
apiVersion: cumulus.dev/v1alpha1
kind: GPUJob
metadata: {{name: bench-{number}}}
spec: {{command: ["true"], gpu: {{memory: {memory}, duration: 1h}}}}
"""


def run() -> Iterator[Result]:
    log.configure(format="json", level="warning")
    few, many = fake_rate(FEW * 2), fake_rate(COUNT)
    processes = process_rate(FEW)
    missing = slurm.available()
    if missing:
        yield LeftOut("jobs a second against Slurm", missing)
    else:
        name = version_of("slurmctld", "-V") or "slurm"
        with slurm.cluster() as env:
            theirs = slurm.jobs_per_second(env, FEW)
        what = f"jobs a second from apply to Succeeded, {COUNT:,} on the FAKE backend (no process is started)"
        yield at_least(what, many, theirs, 3, unit="jobs/s", peer_name=f"{name} running {FEW} jobs `true`")
        what = f"jobs a second from apply to Succeeded, {FEW} jobs `true`"
        yield reported(what, processes, theirs, unit="jobs/s", peer_name=f"{name}, the same, both {SLOTS} at once")
    what = f"time for {COUNT:,} jobs on the fake backend against {FEW * 2:,}"
    yield at_most(what, COUNT / many, FEW * 2 / few, 12, unit="s", peer_name=f"{FEW * 2:,} jobs")


def fake_rate(count: int) -> float:
    """Jobs a second through the real store, loops and placement, with workloads and leases that are only pretended."""
    clock = SystemClock()
    leases = {f"node-{n}": FakeLeases([fake_device(i) for i in range(DEVICES)], clock) for n in range(NODES)}
    backend = FakeBackend(clock, nodes=leases, script=lambda workload: Script(seconds=0))
    stop = threading.Event()

    def tell() -> None:
        while not stop.wait(TELL_EVERY):
            backend.tell()

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        with tempfile.TemporaryDirectory() as directory:
            agents = [NodeAgent(name, node) for name, node in leases.items()]
            return _rate(Path(directory), [backend], agents, count, memory="10%")
    finally:
        stop.set()
        teller.join()


def process_rate(count: int) -> float:
    """Jobs a second with real processes in real leases on this machine."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        device = Device(0, "bench", "bench", "bench", "gpu", SLOTS << 20)
        ledger = Ledger(home / "chronos", discover=lambda: [device])
        backend = ProcessBackend(home / "process", "here", SecretStore(home / "secrets"), chronos_home=ledger.home)
        try:
            agent = NodeAgent("here", ledger)
            return _rate(home, [backend], [agent], count, memory="1Mi")
        finally:
            backend.close()
            ledger.close()
            _stop_monitor(home / "chronos")


def _rate(
    directory: Path, backends: Sequence[Backend], agents: Sequence[NodeAgent], count: int, *, memory: str
) -> float:
    text = "---".join(JOB.format(number=number, memory=memory) for number in range(count))
    manifests = load_text(text)
    store = SqliteStore(directory / "store")
    try:
        with _managed(store, backends, agents):
            return _timed(store, manifests)
    finally:
        store.close()


def _timed(store: Store, manifests: Sequence[Manifest]) -> float:
    left = {manifest.key for manifest in manifests}
    watch = store.watch(since=store.revision(), kinds=frozenset({"GPUJob"}))
    start = time.perf_counter()
    apply(store, manifests)
    while left:
        events = watch.next(timeout=60)
        if not events:
            raise TimeoutError(f"{len(left)} jobs did not end, among them {next(iter(left))}")
        for event in events:
            phase = event.document.get("status", {}).get("phase")
            if phase == "Failed":
                raise RuntimeError(f"{event.key} failed: {event.document['status']}")
            if phase == "Succeeded":
                left.discard(event.key)
    seconds = time.perf_counter() - start
    watch.close()
    return len(manifests) / seconds


@contextmanager
def _managed(store: Store, backends: Sequence[Backend], agents: Sequence[NodeAgent]) -> Iterator[None]:
    stop = threading.Event()
    manager = threading.Thread(target=Manager(store, backends, agents).run, args=(stop,))
    manager.start()
    try:
        yield
    finally:
        stop.set()
        manager.join()


def _stop_monitor(home: Path) -> None:
    from cumulus.chronos import watchdog

    pid = watchdog.running(home)
    if pid:
        os.kill(pid, 15)
        until(lambda: watchdog.running(home) is None, seconds=30, what="the monitor stops")
