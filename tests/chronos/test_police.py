"""Overuse on a stand-in for NVIDIA's library: real processes, the real monitor and ledger."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cumulus.chronos.contract import EndReason, Lease, LeaseState
from cumulus.chronos.contract.policy import PolicyChange
from cumulus.chronos.contract.variables import PARTITION_ID
from cumulus.chronos.ledger import Ledger
from cumulus.errors import InsufficientShare
from cumulus.lib import processes
from cumulus.resources.enforcement import Overuse, Unleased
from cumulus.resources.reasons import EnforcementReason, NodeCondition
from tests.chronos.conftest import GIB, SLEEP, open_ledger, request, up
from tests.standin_nvml import StandInNvml
from tests.waiting import PATIENCE, eventually

Run = Callable[..., subprocess.Popen[bytes]]

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEP
FORKS = """
import os, time
child = os.fork()
if child == 0:
    os.setsid()
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""
ANOTHERS = """
import os, sys
home = os.environ["CHRONOS_HOME"]
os.execve(sys.executable, [sys.executable, "-S", "-c", %r], {%r: "b", "CHRONOS_HOME": home})
"""


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInNvml:
    """GPU-a and GPU-b, of which the monitor that a ledger starts is told."""
    standin = StandInNvml(tmp_path / "nvml", {"GPU-a": 80 * GIB, "GPU-b": 80 * GIB})
    monkeypatch.setenv("LD_LIBRARY_PATH", str(standin.directory))
    return standin


@pytest.fixture
def ledger(home: Path, gpus: StandInNvml) -> Ledger:
    return open_ledger(home)


def lease_of(ledger: Ledger, id: str) -> Lease:
    found = ledger.get(id)
    assert found is not None
    return found


def held(ledger: Ledger, run: Run, id: str = "a", program: str = SLEEP, **fields: object) -> subprocess.Popen[bytes]:
    """A process that runs in a lease of 20 GiB."""
    process = run(program)
    up(process)
    ledger.attach(id, process.pid, ledger.grant(request(id, **fields)).token)
    return process


def test_a_lease_that_holds_more_ends_without_grace(ledger: Ledger, gpus: StandInNvml, run: Run) -> None:
    innocent = held(ledger, run, "b")
    process = held(ledger, run, program=STUBBORN, grace=600.0)
    gpus.hold("GPU-a", {process.pid: 19 * GIB, innocent.pid: 20 * GIB})
    time.sleep(1.0)
    assert lease_of(ledger, "a").state is LeaseState.ACTIVE
    gpus.hold("GPU-a", {process.pid: 21 * GIB, innocent.pid: 20 * GIB})
    assert process.wait(PATIENCE) == -signal.SIGKILL
    eventually(lambda: lease_of(ledger, "a").state is LeaseState.ENDED)
    ended = lease_of(ledger, "a")
    assert (ended.end_reason, ended.held_bytes) == (EndReason.OVERUSED, 21 * GIB)
    assert ended.overused == "held 21Gi of GPU memory and leases 20Gi"
    assert innocent.poll() is None
    lines = eventually(lambda: (text := (ledger.home / "audit.log").read_text()) and '"overused"' in text and text)
    events = [json.loads(line)["event"] for line in lines.splitlines() if json.loads(line)["lease"] == "a"]
    assert events == ["granted", "found-over", "overused"]


def test_report_keeps_it_and_says_so_until_it_gives_the_memory_back(
    ledger: Ledger, gpus: StandInNvml, run: Run
) -> None:
    ledger.set_policy(PolicyChange(overuse=Overuse.REPORT))
    process = held(ledger, run, overuse=Overuse.REPORT)
    gpus.hold("GPU-a", {process.pid: 30 * GIB})
    eventually(lambda: lease_of(ledger, "a").held_bytes == 30 * GIB)
    assert lease_of(ledger, "a").state is LeaseState.ACTIVE
    gpus.hold("GPU-a", {process.pid: 10 * GIB})
    eventually(lambda: lease_of(ledger, "a").held_bytes == 0)
    # What its node does by now holds for what is live.
    gpus.hold("GPU-a", {process.pid: 30 * GIB})
    ledger.set_policy(PolicyChange(overuse=Overuse.END))
    assert process.wait(PATIENCE) == -signal.SIGKILL


def test_a_second_process_counts_and_a_lease_that_is_ending_has_no_grace_for_it(
    ledger: Ledger, gpus: StandInNvml, run: Run
) -> None:
    process = run(FORKS)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    ledger.attach("a", process.pid, ledger.grant(request(grace=600.0)).token)
    gpus.hold("GPU-a", {process.pid: 12 * GIB, child: 12 * GIB})
    process.wait(PATIENCE)
    eventually(lambda: lease_of(ledger, "a").end_reason is EndReason.OVERUSED)
    eventually(lambda: processes.read(child) is None or not processes.read(child).alive)  # type: ignore[union-attr]
    stubborn = held(ledger, run, "c", STUBBORN, grace=600.0)
    ledger.release("c")
    gpus.hold("GPU-a", {stubborn.pid: 30 * GIB})
    assert stubborn.wait(PATIENCE) == -signal.SIGKILL


def test_a_gpu_that_was_not_leased_counts_too(ledger: Ledger, gpus: StandInNvml, run: Run) -> None:
    process = held(ledger, run)
    gpus.hold("GPU-b", {process.pid: 2 * GIB})
    assert process.wait(PATIENCE) == -signal.SIGKILL


def test_no_environment_keeps_a_lease_from_being_policed(ledger: Ledger, gpus: StandInNvml, run: Run) -> None:
    """As on the GPU in tests/gpu/test_overuse.py: what the job undid there is not what its node goes by."""
    environments = [
        {"CUDA_MPS_PIPE_DIRECTORY": "/nonexistent"},
        {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=40G"},
        {"LD_PRELOAD": "", "CHRONOS_ACCOUNT": ""},
        {"OPENCL_LAYERS": ""},
    ]
    started = [run(SLEEP, session=True, **environment) for environment in environments]
    for number, process in enumerate(started):
        up(process)
        lease = ledger.grant(request(f"l{number}", memory_bytes=10 * GIB, compute=100))
        ledger.attach(lease.id, process.pid, lease.token)
    gpus.hold("GPU-a", {process.pid: 15 * GIB for process in started})
    assert [process.wait(PATIENCE) for process in started] == [-signal.SIGKILL] * len(started)


def test_nobody_blames_another_lease_by_its_environment(ledger: Ledger, gpus: StandInNvml, run: Run) -> None:
    victim = held(ledger, run, "b")
    process = run(ANOTHERS % (SLEEP, PARTITION_ID))
    up(process)
    ledger.attach("a", process.pid, ledger.grant(request()).token)
    gpus.hold("GPU-a", {process.pid: 30 * GIB, victim.pid: GIB})
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert lease_of(ledger, "b").state is LeaseState.ACTIVE
    assert victim.poll() is None


def test_where_processes_are_not_told_the_total_is_policed_and_the_node_says_so(
    ledger: Ledger, gpus: StandInNvml, run: Run
) -> None:
    process = held(ledger, run)
    gpus.say("GPU-a", f"held {process.pid} -", f"extra {30 * GIB}")
    assert process.wait(PATIENCE) == -signal.SIGKILL
    eventually(lambda: policed(ledger) == (True, EnforcementReason.BY_DEVICE))


def test_a_driver_that_hangs_is_said_and_leases_end_on_time_all_the_same(
    ledger: Ledger, gpus: StandInNvml, run: Run, home: Path
) -> None:
    from cumulus.chronos import monitor_control

    gpus.head("hangs")
    process = held(ledger, run, seconds=4.0, grace=30)
    monitor = monitor_control.running(home)
    assert monitor
    asking = eventually(lambda: processes.descendants(monitor))
    assert process.wait(PATIENCE) == -signal.SIGTERM
    # What hangs there does not outlive the monitor, however that ends.
    os.kill(monitor, signal.SIGKILL)
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in asking))


def test_a_monitor_that_is_killed_amid_it_is_replaced_by_one_that_goes_on(
    ledger: Ledger, gpus: StandInNvml, run: Run, home: Path
) -> None:
    from cumulus.chronos import monitor_control

    process = held(ledger, run)
    monitor = monitor_control.running(home)
    assert monitor
    gpus.hold("GPU-a", {process.pid: 30 * GIB})
    os.kill(monitor, signal.SIGKILL)
    eventually(lambda: lease_of(ledger, "a").state is LeaseState.ENDED)
    assert process.wait(PATIENCE) == -signal.SIGKILL


def condition(ledger: Ledger, kind: NodeCondition) -> tuple[bool, str, str] | None:
    found = next((each for each in ledger.health() if each.type == kind), None)
    return None if found is None else (found.status, found.reason, found.message)


def test_who_holds_a_gpu_without_a_lease_is_told_and_ended_only_where_an_admin_says_so(
    ledger: Ledger, gpus: StandInNvml, run: Run
) -> None:
    stray = run("import ctypes; ctypes.CDLL(None).prctl(15, b'tr\\x1b[1main', 0, 0, 0);" + SLEEP)
    up(stray)
    gpus.say("GPU-a", f"held {stray.pid} {3 * GIB}", "busy 50", "power 300000", "temperature 61", "ecc 2 0")
    ledger.grant(request("b", device=1))
    seen = eventually(lambda: (ledger.watched().unleased and ledger.watched()) or None)
    (process,) = seen.unleased
    assert (process.device_id, process.pid, process.memory_bytes) == ("GPU-a", stray.pid, 3 * GIB)
    assert process.program == "tr\\x1b[1main"
    figures = seen.figures["GPU-a"]
    assert (figures.busy, figures.power_watts, figures.temperature, figures.ecc_corrected) == (500, 300.0, 61, 2)
    eventually(lambda: (condition(ledger, NodeCondition.ONLY_LEASED) or (True,))[0] is False)
    assert str(stray.pid) in (condition(ledger, NodeCondition.ONLY_LEASED) or ("", "", ""))[2]
    ledger.set_policy(PolicyChange(unleased=Unleased.IGNORE))
    eventually(lambda: ledger.watched().unleased == ())
    assert stray.poll() is None


def test_a_gpu_that_fails_ends_its_leases_and_stays_so_until_an_administrator_looks(
    ledger: Ledger, gpus: StandInNvml, run: Run
) -> None:
    process = held(ledger, run)
    other = held(ledger, run, "b", device=1)
    gpus.say("GPU-a", f"held {process.pid} {GIB}", "xid 13")
    eventually(lambda: "GPU-a" in ledger.watched().figures)
    assert ledger.watched().figures["GPU-a"].fault == ""
    gpus.say("GPU-a", "lost")
    eventually(lambda: lease_of(ledger, "a").end_reason is EndReason.LOST)
    process.wait(PATIENCE)
    eventually(lambda: ledger.watched().figures["GPU-a"].fault == "Xid 79: it has fallen off the bus")
    assert lease_of(ledger, "b").state is LeaseState.ACTIVE
    assert other.poll() is None
    gpus.say("GPU-a")
    time.sleep(1)
    with pytest.raises(InsufficientShare, match="device 0 has failed: Xid 79"):
        ledger.grant(request("c"))
    ledger.rediscover()
    eventually(lambda: not ledger.watched().figures["GPU-a"].fault)
    assert ledger.grant(request("c")).state is LeaseState.ACTIVE
    gpus.say("GPU-b", "xid 95")
    eventually(lambda: lease_of(ledger, "b").end_reason is EndReason.LOST)


def policed(ledger: Ledger) -> tuple[bool, str] | None:
    found = [condition for condition in ledger.health() if condition.type == NodeCondition.POLICED]
    return (found[0].status, found[0].reason) if found else None
