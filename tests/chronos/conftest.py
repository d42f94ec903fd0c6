"""A ledger on a machine with two GPUs and a CPU, and processes that are gone when the test is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos import monitor_control
from cumulus.chronos.contract import Device, LeaseRequest
from cumulus.chronos.contract.variables import PARTITION_ID
from cumulus.chronos.database import Database
from cumulus.chronos.home import LEDGER
from cumulus.chronos.ledger import Ledger
from cumulus.clock import Clock, FakeClock
from cumulus.lib import cgroup, processes
from cumulus.lib.processes import ProcessIdentity
from tests.processes import cgroups_of
from tests.waiting import eventually

GIB = 2**30
GPUS = [
    Device(index=0, id="GPU-a", name="H100", vendor="NVIDIA", type="gpu", memory_bytes=80 * GIB),
    Device(index=1, id="GPU-b", name="H100", vendor="NVIDIA", type="gpu", memory_bytes=80 * GIB),
]
SLEEP = "import time; print('up', flush=True); time.sleep(60)"
"""A program that `up` waits for."""
CPU = Device(index=2, id="cpu", name="EPYC", vendor="AMD", type="cpu", memory_bytes=16 * GIB)


def request(id: str = "a", **fields: object) -> LeaseRequest:
    """A quarter of device 0 for a minute, unless said otherwise."""
    defaults: dict[str, object] = {"device": 0, "memory_bytes": 20 * GIB, "compute": 250, "seconds": 60.0, "grace": 0.2}
    return LeaseRequest(id=id, **(defaults | fields))  # type: ignore[arg-type]


def up(process: subprocess.Popen[bytes]) -> ProcessIdentity:
    """Who the process is, once it says that it is up."""
    assert process.stdout is not None
    process.stdout.readline()
    proc = processes.read(process.pid)
    assert proc is not None
    return ProcessIdentity(proc.pid, proc.start)


@pytest.fixture(autouse=True)
def _close_databases(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One process runs all of these tests: what each opens in it would stay open."""
    opened: list[Database] = []
    begin = Database.__init__

    def begin_and_note(self: Database, *arguments: Any, **options: Any) -> None:
        opened.append(self)
        begin(self, *arguments, **options)

    monkeypatch.setattr(Database, "__init__", begin_and_note)
    yield
    for each in opened:
        each.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A ledger's directory. Its monitor, if the test started one, is ended."""
    monkeypatch.setenv("CHRONOS_HOME", str(tmp_path / "chronos"))
    monkeypatch.setenv("CHRONOS_MONITOR_IDLE", "30")
    monkeypatch.delenv("CHRONOS_OFFER_CPU", raising=False)
    monkeypatch.delenv(PARTITION_ID, raising=False)
    yield tmp_path / "chronos"
    end_monitor(tmp_path / "chronos")
    remove_cgroups(tmp_path / "chronos")


def end_monitor(home: Path) -> None:
    pid = monitor_control.running(home)
    if pid:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: monitor_control.running(home) is None)


def remove_cgroups(home: Path) -> None:
    """Those that a test without a monitor has left, with what is still in them."""
    for directory in cgroups_of(home):
        assert os.getpid() not in cgroup.members(directory)
        cgroup.kill(directory)
    eventually(lambda: all(cgroup.remove(directory) for directory in cgroups_of(home)))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(home: Path, clock: FakeClock) -> Iterator[Ledger]:
    """On a fake clock, hence with no monitor of its own."""
    ledger = open_ledger(home, clock)
    yield ledger
    ledger.close()


def open_ledger(home: Path, clock: Clock | None = None, boot: str | None = None) -> Ledger:
    return Ledger(home, clock, lambda: [*GPUS, CPU], boot=boot)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start Python programs; they and all they leave behind, known by a marker of the test, are killed at its end."""
    mark = f"TEST_OF_CHRONOS={tmp_path}"
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str, *, session: bool = False, **environment: str) -> subprocess.Popen[bytes]:
        name, value = mark.split("=", 1)
        # One that names a lease and no ledger is any ledger's: a monitor of other tests would end it for its own.
        home = tmp_path / "chronos"
        home.mkdir(mode=0o700, exist_ok=True)
        (home / LEDGER).touch(0o600)
        # -S: without the site module Python starts in a third of the time.
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", program],
            env={name: value, "OUT": str(tmp_path), "CHRONOS_HOME": str(home), **environment},
            stdout=subprocess.PIPE,
            start_new_session=session,
        )
        started.append(process)
        return process

    yield start
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and mark.encode() in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                os.kill(int(name), signal.SIGKILL)
        except OSError:
            continue
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
