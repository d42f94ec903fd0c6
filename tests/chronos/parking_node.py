"""A node with two GPUs, on stand-ins for NVIDIA's libraries, whose leases are parked without a monitor."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cumulus.chronos.contract import Lease, Proof
from cumulus.chronos.contract.policy import PolicyChange
from cumulus.chronos.database import Database
from cumulus.chronos.device_processes import DeviceProcesses
from cumulus.chronos.enforce import account
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.monitor import Monitor
from cumulus.chronos.parking import rows
from cumulus.chronos.parking.checkpoint_client import CheckpointClient
from cumulus.chronos.parking.driver import CheckpointState
from cumulus.chronos.parking.mover import Means
from cumulus.chronos.parking.parker import Parker
from cumulus.clock import SystemClock
from cumulus.lib import cgroup
from cumulus.lib.processes import children, read
from tests.chronos.conftest import CPU, GPUS, SLEEP, request, up
from tests.standin_cuda import StandInCuda
from tests.standin_nvml import GIB, StandInNvml
from tests.waiting import PATIENCE

DRIVER = "580.1"
MIB = 2**20
Run = Callable[..., subprocess.Popen[bytes]]


def proof(framework: str = "cuda", *, holds: bool = True, driver: str = DRIVER) -> Proof:
    return Proof(GPUS[0].name, driver, framework, holds, "of a test", "2030-01-01T00:00:00Z")


def counted(home: Path, lease: str, pids: dict[int, int]) -> None:
    """What the counting library would have written of these processes: by number, how they allocate."""
    slots = b""
    for pid, notes in pids.items():
        proc = read(pid)
        assert proc is not None
        namespace = os.stat("/proc/self/ns/pid").st_ino
        slots += struct.pack("=iIQQQQ", pid, notes, proc.start, namespace, 0, GIB)
    head = b"CHRUSE1\0" + struct.pack("=I", len(pids)).ljust(120, b"\0")
    (account.directory(home, lease) / "usage").write_bytes(head + slots)


def means(patience: float = PATIENCE, free: Callable[[int], int] = lambda not_moved: 10**15 - not_moved) -> Means:
    """`patience`: seconds for an answer of the driver. `free`: main memory."""
    clock = SystemClock()
    return Means(
        lambda: CheckpointClient(patience, 0.2),
        lambda: DeviceProcesses(clock),
        free,
        freed_seconds=0.5,
        restore_pause=0.2,
        names_are_the_drivers=True,
    )


@dataclass
class ParkingNode:
    ledger: Ledger
    nvml: StandInNvml
    cuda: StandInCuda
    run: Run
    said: list[str] = field(default_factory=list)
    held: dict[int, int] = field(default_factory=dict)
    notes: dict[str, dict[int, int]] = field(default_factory=dict)
    patience: float = PATIENCE
    free: Callable[[int], int] = lambda not_moved: 10**15 - not_moved

    def parker(self) -> Parker:
        """As a monitor has one that was started now."""
        database = Database(self.ledger.home)
        our_means = means(self.patience, self.free)
        return Parker(database, self.ledger.clock, self.said.append, means=our_means, threads=False)

    def step(self) -> None:
        """What a new monitor does about parking, once."""
        parker = self.parker()
        parker.step()
        parker.close()

    def lease(self, id: str = "a", *sizes: int, notes: int = 0, **fields: object) -> tuple[Lease, list[int]]:
        """A lease with processes that hold so many bytes each of its GPU, as the driver and the account tell."""
        lease = self.ledger.grant(request(id, **fields))
        account.open_account(lease, GPUS[0], self.ledger.home)
        return lease, [self.program(lease, size, notes) for size in sizes or (GIB,)]

    def program(self, lease: Lease, size: int, notes: int | None = 0, *, cuda: bool = True) -> int:
        process = self.run(SLEEP)
        up(process)
        self.ledger.attach(lease.id, process.pid, lease.token)
        if notes is not None:
            self.notes.setdefault(lease.id, {})[process.pid] = notes
            counted(self.ledger.home, lease.id, self.notes[lease.id])
        self.hold(process.pid, size)
        if cuda:
            self.cuda.uses(process.pid)
        return process.pid

    def hold(self, pid: int, size: int) -> None:
        self.held[pid] = size
        self.nvml.hold("GPU-a", self.held)

    def marked(self, lease: Lease, size: int) -> tuple[int, str]:
        """A process that nobody attached and that names its lease, in a PID namespace and a cgroup of its own: as a
        container's. Its number here, and its cgroup."""
        inner = f"import os; print(os.getpid(), os.stat('/proc/self/ns/pid').st_ino, flush=True);{SLEEP}"
        apart = "import ctypes, os; ctypes.CDLL(None).unshare(0x20000000)"
        outer = f"{apart}\nif os.fork() == 0:\n exec({inner!r})\nelse:\n os.wait()"
        process = self.run(outer, CHRONOS_PARTITION_ID=lease.id)
        assert process.stdout is not None
        number, namespace = map(int, process.stdout.readline().split())
        [pid] = children(process.pid)
        proc = read(pid)
        assert proc is not None
        slot = struct.pack("=iIQQQQ", number, 0, proc.start, namespace, 0, size)
        head = b"CHRUSE1\0" + struct.pack("=I", 1).ljust(120, b"\0")
        (account.directory(self.ledger.home, lease.id) / "usage").write_bytes(head + slot)
        place = cgroup.make(f"{self.ledger.home.stat().st_dev:x}-{self.ledger.home.stat().st_ino:x}-container/1-1")
        assert place is not None
        for each in (process.pid, pid):
            assert cgroup.enter(place, each)
        self.hold(pid, size)
        self.cuda.uses(pid)
        return pid, place

    def find(self, id: str = "a") -> Lease:
        found = self.ledger.get(id)
        assert found is not None
        return found

    def park(self, id: str = "a", park_for: float = 3600.0, *, freeze: bool = False) -> Lease:
        """Ask, and do it."""
        self.ledger.park(id, park_for, freeze=freeze)
        self.step()
        return self.find(id)

    def unpark(self, id: str = "a", seconds: float = 60.0) -> Lease:
        self.ledger.unpark(id, seconds)
        self.step()
        return self.find(id)

    def states(self, pids: list[int]) -> set[CheckpointState]:
        return {self.cuda.state(pid) for pid in pids}

    def set_aside(self) -> int:
        with self.ledger.database.read() as db:
            return rows.set_aside(db)

    def prove(self, *proofs: Proof) -> None:
        with self.ledger.database.write() as tx:
            rows.record_proofs(tx, proofs)

    def monitor(self) -> None:
        Monitor(self.ledger).step()


@pytest.fixture
def node(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Iterator[ParkingNode]:
    nvml = StandInNvml(tmp_path / "nvml", {"GPU-a": 80 * GIB, "GPU-b": 80 * GIB})
    cuda = StandInCuda(nvml.directory)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml.directory))
    ledger = Ledger(home, SystemClock(), lambda: [*GPUS, CPU], start_monitor=False)
    ledger.set_policy(PolicyChange(parking_memory=16 * GIB))
    made = ParkingNode(ledger, nvml, cuda, run)
    made.prove(proof())
    yield made
    ledger.close()
