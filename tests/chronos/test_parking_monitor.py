"""Parking by the real monitor and the command line, on stand-ins for NVIDIA's libraries."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.chronos import monitor_control
from cumulus.chronos.contract import LeaseState
from cumulus.chronos.contract.policy import PolicyChange
from cumulus.chronos.parking import rows
from cumulus.chronos.parking.driver import CheckpointState
from cumulus.chronos.parking.self_test import Inconclusive, SelfTest
from tests.chronos.conftest import GIB, open_ledger, up
from tests.chronos.parking_node import ParkingNode, Run, proof
from tests.chronos.test_cli import Shell, shell
from tests.standin_cuda import StandInCuda
from tests.standin_nvml import StandInNvml
from tests.waiting import eventually

__all__ = ["shell"]

PROGRAM = """
import json, sys
for line in sys.stdin:
    word = line.strip()
    print(json.dumps({ANSWER}[word]), flush=True)
"""
WORKS = {"go": {"ready": True, "version": "1.0"}, "again": {"same": True, "works": True}}


@pytest.fixture
def node(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Iterator[ParkingNode]:
    nvml = StandInNvml(tmp_path / "nvml", {"GPU-a": 80 * GIB, "GPU-b": 80 * GIB})
    cuda = StandInCuda(nvml.directory)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml.directory))
    monkeypatch.setenv("CHRONOS_MPS", "off")
    ledger = open_ledger(home)
    ledger.set_policy(PolicyChange(parking_memory=4 * GIB))
    yield ParkingNode(ledger, nvml, cuda, run)
    ledger.close()


def test_a_parked_lease_outlives_its_monitor_and_comes_back_by_the_next(node: ParkingNode, shell: Shell) -> None:
    node.prove(proof())
    _, [pid] = node.lease("a", GIB, seconds=600)
    assert "is parked in 1Gi of main memory" in shell("park a --for 2h")
    assert "Parked" in shell("list")
    assert shell.json("stats")["parking"]["usedBytes"] == GIB
    assert "parked leases: 1Gi of 4Gi of main memory" in shell("stats")
    monitor = monitor_control.running(node.ledger.home)
    assert monitor
    os.kill(monitor, signal.SIGKILL)
    eventually(lambda: monitor_control.running(node.ledger.home) != monitor)
    assert node.find().state is LeaseState.PARKED
    assert node.cuda.state(pid) is CheckpointState.CHECKPOINTED
    assert "goes on, and ends in" in shell("unpark a 10m")
    assert node.cuda.state(pid) is CheckpointState.RUNNING
    assert node.ledger.parking().used_bytes == 0


OLDER = """
import fcntl, os, time
lock = os.open("{home}/monitor.pid", os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX)
start = open("/proc/self/stat").read().rpartition(")")[2].split()[19]
ledger = os.stat("{ledger}")
os.ftruncate(lock, 0)
os.pwrite(lock, f"{os.getpid()} {start} {ledger.st_dev} {ledger.st_ino}".encode(), 0)
print("up", flush=True)
time.sleep(600)
"""
"""A monitor that knows nothing of parking: it holds the lock, and says who it is."""


def test_a_monitor_from_before_parking_is_replaced_by_one_that_parks(node: ParkingNode, shell: Shell, run: Run) -> None:
    node.prove(proof())
    node.lease("a", GIB, seconds=600)
    home, today = node.ledger.home, monitor_control.running(node.ledger.home)
    assert today
    with node.ledger.database.write() as tx:
        tx.execute("DELETE FROM meta WHERE key = 'parker'")
    older = run(OLDER.replace("{home}", str(home)).replace("{ledger}", str(node.ledger.database.path)))
    os.kill(today, signal.SIGKILL)
    up(older)
    assert monitor_control.running(home) == older.pid
    assert "is parked" in shell("park a")
    newer = monitor_control.running(node.ledger.home)
    assert newer not in (None, older.pid)
    assert "goes on" in shell("unpark a 10m")
    assert monitor_control.running(node.ledger.home) == newer


def self_test(node: ParkingNode, tmp_path: Path, answers: dict[str, object]) -> SelfTest:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("{ANSWER}", repr(answers)))
    node.cuda.uses(0)
    return SelfTest(node.ledger, node.ledger.devices()[0], program=program, prepare=lambda *_: {})


def test_the_self_test_alone_proves_and_disproves(node: ParkingNode, tmp_path: Path) -> None:
    test = self_test(node, tmp_path, WORKS)
    shown = test.run("torch")
    assert shown is not None
    assert (shown.device, shown.driver, shown.framework, shown.holds) == ("H100", "580.1", "torch", True)
    node.cuda.script("code restore 0 304")
    shown = test.run("jax")
    assert shown is not None
    assert (shown.framework, shown.holds) == ("jax", False)
    assert "did not come back" in shown.message
    told = {each.framework: each.holds for each in node.ledger.parking().proofs}
    assert (told["torch"], told["jax"]) == (True, False)
    eventually(lambda: not node.ledger.list())


def test_one_program_of_jax_that_comes_back_proves_nothing(node: ParkingNode, tmp_path: Path) -> None:
    """Some did not, on a real GPU."""
    shown = self_test(node, tmp_path, WORKS).run("jax")
    assert shown is not None
    assert not shown.holds
    assert "not every program of it does" in shown.message
    with node.ledger.database.read() as db:
        assert [(each.framework, each.holds) for each in rows.proofs(db)] == [("jax", False)]


def test_what_says_nothing_of_a_framework_proves_nothing(node: ParkingNode, tmp_path: Path) -> None:
    test = self_test(node, tmp_path, {"go": {"missing": "no module named cupy"}})
    assert test.run("cupy") is None
    test = self_test(node, tmp_path, {"go": {"failed": "out of memory"}})
    with pytest.raises(Inconclusive, match="out of memory"):
        test.run("cupy")
    with node.ledger.database.read() as db:
        assert rows.proofs(db) == []
