from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos.contract import Device
from cumulus.chronos.ledger import Ledger
from cumulus.clock import SystemClock
from cumulus.daemon_lock import daemon_pid
from cumulus.errors import StoreUnavailable
from cumulus.health import Finding, control_plane, examine, node
from cumulus.health import tools as beside
from cumulus.health.finding import guarded
from cumulus.lib import cgroup, locks
from cumulus.store import schema
from cumulus.store.sqlite import SqliteStore
from tests.chronos.conftest import GPUS, request
from tests.cli.conftest import Run
from tests.documents import NOW, ago, condition, job, partition
from tests.standin_nvml import GIB, StandInNvml
from tests.waiting import eventually


def test_doctor_says_of_cgroups_what_exec_does(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        directory = cgroup.enclose(process.pid, f"test-{process.pid}")
    finally:
        process.kill()
        process.wait()
    (found,) = node.cgroups()
    assert (found.level == "OK") is (directory is not None)
    if directory is not None:
        eventually(lambda: cgroup.remove(directory))
    monkeypatch.setattr(cgroup, "enter", lambda directory, pid: False)
    (found,) = node.cgroups()
    assert (found.level, found.fix != "") == ("WARN", True)
    assert "can outlive its lease" in found.text


def test_mig_instances_for_those_who_wait(
    run: Run, store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = StandInNvml(tmp_path / "nvml", {"GPU-0": 80 * GIB, "GPU-1": 80 * GIB})
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver.directory))
    assert "no GPU of this machine is in MIG mode" in run("doctor", "--mig").out
    profiles = ("profile 0 1 9728 19", "placement 19 1 0 1 2 3 4 5 6", "profile 2 3 40192 9", "placement 9 4 0 4")
    driver.say("GPU-0", "mig", f"instance MIG-a {GIB} 1 1", *profiles, "taken 19 0")
    driver.say("GPU-1", "mig", *profiles, "secret")
    assert "GPU-0 has 1x 1g.1gb; nobody waits" in " ".join(run("doctor", "--mig").out.split())
    for name, memory in (("train", "20Gi"), ("huge", "90Gi"), ("part", "25%")):
        store.create(partition(name, memory=memory, status={"phase": "Pending"}))
    done = run("doctor", "--mig")
    said = " ".join(done.out.split())
    assert done.code == 0
    assert "it could have 3g.40gb for default/train fix: nvidia-smi mig -i GPU-0 -cgi 3g.40gb:4 -C" in said
    assert "default/huge waits for 90Gi, and no instance of that size fits" in said
    assert "GPU-1 has no instance; what else fits is not known fix: run it as root" in said
    assert "default/part" not in said


def test_this_machine(run: Run, store: SqliteStore) -> None:
    store.create(job("a"))
    done = run("doctor")
    assert done.code == 0, done.out
    assert "1 gpujob; all objects are readable" in done.out
    assert "no daemon runs on this state directory" in done.out
    assert "fix: run: cumulus serve" in done.out
    for part in ("state", "store", "daemon", "ledger", "device", "enforcement", "opencl", "docker", "ssh"):
        assert f"  {part} " in done.out, part
    assert "\x1b" not in done.out
    found = json.loads(run("doctor", "-o", "json").out)
    assert {finding["level"] for finding in found} <= {"OK", "WARN"}
    assert run("doctor", "-o", "yaml").code == 2


def test_nothing_is_made_by_looking(run: Run, home: Path, tmp_path: Path) -> None:
    assert run("doctor").code == 0
    assert not home.exists()
    assert not (tmp_path / "chronos").exists()


def test_every_warning_and_failure_has_a_fix(run: Run, home: Path) -> None:
    for finding in json.loads(run("doctor", "-o", "json").out):
        assert finding["level"] == "OK" or finding["fix"], finding


def test_a_damaged_store_fails(home: Path, run: Run) -> None:
    (home / "store").mkdir(parents=True)
    (home / "store" / schema.FILE).write_bytes(b"no database" * 1000)
    [finding] = guarded("store", partial(control_plane.store, home))
    assert finding.level == "FAIL"
    assert run("doctor").code == 1


def hangs() -> Iterator[Finding]:
    time.sleep(3600)
    yield Finding("OK", "never", "")


def breaks() -> Iterator[Finding]:
    yield Finding("OK", "first", "fine")
    raise StoreUnavailable("it broke", hint="mend it")


def test_what_may_not_be_read_says_so_with_a_fix() -> None:
    def check() -> list[Finding]:
        raise PermissionError(errno.EACCES, "Permission denied", "/home/other/store")

    [finding] = guarded("store", check)
    assert (finding.level, finding.text) == ("FAIL", "/home/other/store cannot be read: Permission denied")
    assert "chown" in finding.fix


def test_a_check_that_hangs_or_breaks_is_a_finding() -> None:
    found = list(examine({"hangs": hangs, "breaks": breaks}, SystemClock(), 0.2))
    assert [(f.level, f.what) for f in found] == [("FAIL", "hangs"), ("FAIL", "breaks")]
    assert found[1] == Finding("FAIL", "breaks", "it broke", "mend it")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


def tool(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_device_of_another_size_than_the_ledger_counts_on() -> None:
    def device(size: int, following: int = 0, type: str = "gpu") -> Device:
        return Device(0, "GPU-a", "H100", "NVIDIA", type, size << 30, next_memory_bytes=following << 30)

    def told(said: Device, known: Device) -> list[tuple[str, str]]:
        return [(finding.level, finding.text) for finding in node.sizes([said], [known])]

    assert told(device(4), device(4)) == []
    assert told(device(2), device(4)) == [("WARN", "device 0 has 2Gi of memory, but the ledger records 4Gi")]
    text = "device 0 has 2Gi of memory, but the ledger records 3Gi, which its leases use"
    assert told(device(2), device(3, 2)) == [("WARN", text)]
    assert told(device(4), device(2, 4))[0][0] == "OK"
    assert told(device(16, type="cpu"), device(15, type="cpu")) == []
    assert list(node.sizes([], [device(4)])) == []


def test_docker(tools: Path) -> None:
    assert [f.level for f in beside.docker()] == ["WARN"]
    tool(tools, "docker", """echo '{"ServerVersion": "27.1", "Swarm": {"LocalNodeState": "active"}}'""")
    assert list(beside.docker()) == [Finding("OK", "docker", "Engine 27.1, swarm active")]
    tool(tools, "docker", """echo '{"ServerErrors": ["no permission"]}'""")
    [finding] = beside.docker()
    assert (finding.level, finding.text) == ("WARN", "the engine does not answer: no permission")
    tool(tools, "docker", "echo broken >&2; exit 1")
    assert "broken" in next(iter(beside.docker())).text


def test_ssh(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no client" in next(iter(beside.ssh())).text
    tool(tools, "ssh", "echo OpenSSH_9, x >&2")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert "no agent runs" in next(iter(beside.ssh())).text
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
    for script, text in (("exit 2", "does not answer"), ("exit 1", "holds no key"), ("echo a; echo b", "holds 2 keys")):
        tool(tools, "ssh-add", script)
        assert text in next(iter(beside.ssh())).text


def test_a_directory_that_others_may_write(home: Path) -> None:
    home.mkdir()
    for mode, level in ((0o777, "FAIL"), (0o770, "WARN")):
        home.chmod(mode)
        finding = next(iter(control_plane.state(home)))
        assert (finding.level, finding.fix) == (level, f"run: chmod go-w {home}")
    home.rmdir()
    home.write_text("a file")
    assert next(iter(control_plane.state(home))).level == "FAIL"
    os.unlink(home)


def lease(*, renewed: float = 1, process: str = "", conditions: tuple[Any, ...] = (), **spec: Any) -> dict[str, Any]:
    made = {"holderIdentity": "host-1", "holderProcess": process, "renewTime": ago(seconds=renewed), **spec}
    return {"spec": made, "status": {"conditions": list(conditions)}}


STALLED = condition("Progressing", False, "Stalled", "the controller job has finished nothing though keys are due")


@pytest.mark.parametrize(
    ("document", "level", "text"),
    [
        ({}, "OK", "process 7; no daemon leads yet"),
        (lease(), "OK", "process 7; host-1 leads, renewed 1s ago"),
        (lease(holderIdentity=""), "WARN", "no daemon leads"),
        (lease(renewed=300), "FAIL", "no daemon leads: host-1 renewed 5m ago"),
        (lease(conditions=(STALLED,)), "FAIL", "does not do its work: the controller job has finished nothing"),
        (lease(conditions=(condition("Progressing", True, "Works"),)), "OK", "host-1 leads"),
    ],
)
def test_a_daemon_is_well_only_where_it_does_the_work(document: dict[str, Any], level: str, text: str) -> None:
    found = control_plane.leadership(7, document, NOW)
    assert found.level == level
    assert text in found.text
    assert bool(found.fix) is (level != "OK")


def test_a_leader_that_was_stopped_is_named(tmp_path: Path) -> None:
    code = "from cumulus.lib.process_identity import this_process as p; print(p(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as leader:
        assert leader.stdout is not None
        process = leader.stdout.readline().strip()
        assert control_plane.leadership(7, lease(process=process), NOW).level == "OK"
        leader.send_signal(signal.SIGSTOP)
        eventually(lambda: locks.is_stopped(leader.pid))
        found = control_plane.leadership(7, lease(process=process), NOW)
        leader.kill()
    assert found.level == "FAIL"
    assert f"process {leader.pid}" in found.text
    assert "which is stopped" in found.text
    assert f"kill -CONT {leader.pid}" in found.fix
    assert control_plane.leadership(7, lease(process=process), NOW).level == "OK"


def test_a_stopped_daemon_is_told_of_though_another_leads(tmp_path: Path) -> None:
    code = "from cumulus.lib.process_identity import this_process as p; print(p(), flush=True); input()"

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with started() as stopped, started() as leads:
        assert leads.stdout is not None
        found_by = lease(process=leads.stdout.readline().strip())
        pids = sorted((stopped.pid, leads.pid))
        (found,) = control_plane.daemons(pids, found_by, NOW)
        assert found == Finding("OK", "daemon", f"process {leads.pid}; host-1 leads, renewed 1s ago")
        stopped.send_signal(signal.SIGSTOP)
        eventually(lambda: locks.is_stopped(stopped.pid))
        leader, other = control_plane.daemons(pids, found_by, NOW)
        stopped.kill()
        leads.kill()
    assert leader == found
    assert other.level == "WARN"
    assert f"process {stopped.pid}" in other.text
    assert "which is stopped" in other.text
    assert f"kill -CONT {stopped.pid}" in other.fix


@pytest.mark.usefixtures("served")
def test_a_stopped_daemon_is_known_by_its_lock(home: Path) -> None:
    pid = daemon_pid(home)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: locks.is_stopped(pid))
        *_, found = control_plane.daemon(home)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (found.level, found.what) == ("WARN", "daemon")
    assert f"process {pid}" in found.text
    assert "which is stopped" in found.text


def test_the_ledgers_leases_are_counted(home: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "chronos", None, lambda: GPUS, start_monitor=False)
    told = []
    for name in ("a", "b"):
        ledger.grant(request(name))
        told.append(next(iter(node.ledger())).text.rpartition(", ")[2])
    ledger.close()
    assert told == ["1 live lease", "2 live leases"]
