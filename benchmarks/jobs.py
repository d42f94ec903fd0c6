"""Jobs from apply to Succeeded, on the fake backend and on real processes, against Slurm; and growth."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from benchmarks import slurm
from benchmarks.harness import LeftOut, Result, at_least, at_most, in_rounds, until, version_of
from cumulus import log
from cumulus.apply.apply import apply
from cumulus.backends.base import Backend
from cumulus.backends.process.backend import ProcessBackend
from cumulus.chronos.contract import Device
from cumulus.chronos.ledger import Ledger
from cumulus.clock import SystemClock
from cumulus.manifest import Manifest, load_text
from cumulus.nodes.agent import NodeAgent
from cumulus.secrets import JobSecrets
from cumulus.server.control_plane import ControlPlane
from cumulus.store.base import Store
from cumulus.store.sqlite import SqliteStore
from cumulus.testing.backend import FakeBackend, Script
from cumulus.testing.leases import FakeLeases, fake_device

COUNT = 10_000
FEW = 200
ROUNDS = 4
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


@dataclass(frozen=True)
class Taken:
    """What so many jobs took from apply to the last one's end: seconds on the clock and of this process's processor
    time, its own children's included."""

    jobs: int
    seconds: float
    processor: float

    @property
    def rate(self) -> float:
        return self.jobs / self.seconds


def run() -> Iterator[Result]:
    log.configure(format="json", level="warning")
    missing = slurm.available()
    few: list[Taken] = []
    many: list[Taken] = []
    processes: list[float] = []
    theirs: list[float] = []
    with ExitStack() as stack:
        env = None if missing else stack.enter_context(slurm.cluster())
        for round in range(ROUNDS):
            few.append(fake_jobs(COUNT // 10))
            processes.append(process_jobs(FEW).rate)
            if env is not None:
                theirs.append(slurm.jobs_per_second(env, FEW))
            if round % 2:
                many.append(fake_jobs(COUNT))
    if missing:
        yield LeftOut("jobs a second against Slurm", missing)
    else:
        name = version_of("slurmctld", "-V") or "slurm"
        what = f"jobs a second from apply to Succeeded, {COUNT:,} on the FAKE backend (no process is started)"
        ours, peer = statistics.median(taken.rate for taken in many), statistics.median(theirs)
        yield at_least(what, ours, peer, 3, unit="jobs/s", peer_name=f"{name} running {FEW} jobs `true`")
        what = f"jobs a second from apply to Succeeded, {FEW} jobs `true`"
        peer_name = f"{name}, the same, both {SLOTS} at once"
        yield in_rounds(what, processes, theirs, unit="jobs/s", peer_name=peer_name)
    peer_name = f"{COUNT // 10:,} jobs"
    for what, unit, side in (
        ("time", "s", attrgetter("seconds")),
        ("processor time", "s", attrgetter("processor")),
    ):
        ours, peer = statistics.median(map(side, many)), statistics.median(map(side, few))
        what = f"{what} for {COUNT:,} jobs on the fake backend against {peer_name}"
        yield at_most(what, ours, peer, 12, unit=unit, peer_name=peer_name)


def fake_jobs(count: int) -> Taken:
    """Jobs through the real store, loops and placement, with workloads and leases that are only pretended."""
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
            return _run_jobs(Path(directory), [backend], agents, count, memory="10%")
    finally:
        stop.set()
        teller.join()


def process_jobs(count: int) -> Taken:
    """Jobs with real processes in real leases on this machine."""
    with tempfile.TemporaryDirectory() as directory, this_machine(Path(directory), SLOTS) as (backend, agent):
        return _run_jobs(Path(directory), [backend], [agent], count, memory="1Mi")


@contextmanager
def this_machine(home: Path, slots: int) -> Iterator[tuple[ProcessBackend, NodeAgent]]:
    """What runs real processes here, in leases of 1 MiB or more of one device of so many MiB."""
    device = Device(0, "bench", "bench", "bench", "gpu", slots << 20)
    ledger = Ledger(home / "chronos", discover=lambda: [device])
    backend = ProcessBackend(
        home / "process", "here", JobSecrets(home / "secrets"), chronos_home=ledger.home, environment=os.environ
    )
    try:
        yield backend, NodeAgent("here", ledger)
    finally:
        backend.close()
        ledger.close()
        stop_monitor(home / "chronos")


def _run_jobs(
    directory: Path, backends: Sequence[Backend], agents: Sequence[NodeAgent], count: int, *, memory: str
) -> Taken:
    text = "---".join(JOB.format(number=number, memory=memory) for number in range(count))
    manifests = load_text(text)
    store = SqliteStore(directory / "store")
    try:
        with managed(store, backends, agents):
            return _timed(store, manifests)
    finally:
        store.close()


def _timed(store: Store, manifests: Sequence[Manifest]) -> Taken:
    left = {manifest.key for manifest in manifests}
    watch = store.watch(since=store.revision(), kinds=frozenset({"GPUJob"}))
    start, used = time.perf_counter(), _processor()
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
    taken = Taken(len(manifests), time.perf_counter() - start, _processor() - used)
    watch.close()
    return taken


def _processor() -> float:
    return sum(os.times()[:4])


@contextmanager
def managed(store: Store, backends: Sequence[Backend], agents: Sequence[NodeAgent]) -> Iterator[None]:
    stop = threading.Event()
    manager = threading.Thread(target=ControlPlane(store, backends, agents).run, args=(stop,))
    manager.start()
    try:
        yield
    finally:
        stop.set()
        manager.join()


def stop_monitor(home: Path) -> None:
    from cumulus.chronos import monitor_control

    pid = monitor_control.running(home)
    if pid:
        os.kill(pid, 15)
        until(lambda: monitor_control.running(home) is None, seconds=30, what="the monitor stops")
