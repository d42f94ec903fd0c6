"""The daemon's promises on real processes: nothing runs twice, is lost or leaks, whoever is killed when."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.lib import locks
from tests.commands import CHRONOS_CLI
from tests.e2e.conftest import Machine, manifest, serving
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.daemon
WITH_OTHERS = pytest.mark.xdist_group("e2e-daemon")


def record(path: Path, then: str) -> str:
    """A script that writes down each of its starts before it does anything else."""
    return f'echo "$CUMULUS_JOB $CUMULUS_ATTEMPT $CUMULUS_REPLICA" >> {path}; {then}'


def starts(path: Path) -> Counter[str]:
    return Counter(path.read_text().split("\n")[:-1]) if path.exists() else Counter()


@pytest.fixture(scope="module")
def one_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with serving(Machine(tmp_path_factory.mktemp("daemon") / "m")) as made:
        yield made


@pytest.fixture
def served(one_daemon: Machine) -> Iterator[Machine]:
    """For tests that leave the daemon alone: one is enough for them all. Each finds it without jobs and leases."""
    yield one_daemon
    one_daemon.ok("delete", "jobs", "--all", "--now", "--timeout=150s")
    one_daemon.ok("delete", "partitions", "--all", "--timeout=150s")
    eventually(lambda: not one_daemon.leases(), what="leases released at the end of the test")


@WITH_OTHERS
def test_a_job_succeeds_and_gives_everything_back(served: Machine) -> None:
    assert served.apply(manifest("hello", "echo hello from $CUMULUS_JOB")) == "gpujob.cumulus.dev/hello created\n"
    served.ok("wait", "gpujob/hello", "--for=condition=Succeeded", "--timeout=150s")
    job = served.get("job", "hello")
    assert job["status"]["phase"] == "Succeeded"
    [attempt] = job["status"]["attempts"]
    assert attempt["exitCode"] == 0
    assert attempt["node"]
    assert served.ok("logs", "hello") == "hello from hello\n"
    eventually(lambda: not served.leases(), what="lease released")
    served.ok("delete", "job", "hello", "--timeout=150s")
    assert served.items("jobs") == []
    eventually(lambda: served.items("partitions") == [], what="partitions gone")


@WITH_OTHERS
def test_a_failed_job_is_retried_and_wait_gives_up_at_once(served: Machine, tmp_path: Path) -> None:
    log = tmp_path / "starts"
    served.apply(manifest("bad", record(log, "exit 3"), retry={"limit": 2, "backoff": "100ms"}))
    waited = served.run("wait", "gpujob/bad", "--for=condition=Succeeded", "--timeout=150s")
    assert waited.returncode == 1
    assert "Failed" in waited.stderr + waited.stdout
    status = served.get("job", "bad")["status"]
    assert status["phase"] == "Failed"
    assert [a["exitCode"] for a in status["attempts"]] == [3, 3, 3]
    assert starts(log) == {"bad 1 0": 1, "bad 2 0": 1, "bad 3 0": 1}


@WITH_OTHERS
def test_an_overrun_is_ended_at_the_leases_end(served: Machine) -> None:
    served.apply(manifest("late", "exec sleep 60", duration="2s"))
    served.ok("wait", "gpujob/late", "--for=condition=Failed", "--timeout=150s")
    [attempt] = served.get("job", "late")["status"]["attempts"]
    assert attempt["reason"] == "LeaseExpired"
    eventually(lambda: not served.leases(), what="lease gone")


def test_a_killed_daemon_goes_on_with_its_running_jobs(machine: Machine, tmp_path: Path) -> None:
    daemon = machine.serve()
    machine.ready()
    log, gate = tmp_path / "starts", tmp_path / "gate"
    wait_for_gate = f"while [ ! -e {gate} ]; do sleep 0.1; done"
    machine.apply(*[manifest(f"j{i}", record(log, wait_for_gate)) for i in range(5)])
    eventually(lambda: sum(starts(log).values()) == 5, what="five jobs running")
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    gate.touch()  # The jobs end while nobody looks.
    machine.serve()
    for i in range(5):
        machine.ok("wait", f"gpujob/j{i}", "--for=condition=Succeeded", "--timeout=150s")
    assert starts(log) == {f"j{i} 1 0": 1 for i in range(5)}
    eventually(lambda: not machine.leases(), what="leases released")


MANY, KILLS = 5, 2
"""Jobs that run three at a time, and how often the daemon is killed meanwhile. `tests.crash` kills it for hours."""


def test_kill_and_restart_again_and_again_amid_work(machine: Machine, tmp_path: Path) -> None:
    log = tmp_path / "starts"
    machine.apply(*[manifest(f"j{i}", record(log, "sleep 0.5"), memory="30%") for i in range(MANY)])
    for _ in range(KILLS):
        daemon = machine.serve()
        before = sum(starts(log).values())
        eventually(lambda: sum(starts(log).values()) > before or sum(starts(log).values()) == MANY, what="progress")  # noqa: B023
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    machine.serve()
    for i in range(MANY):
        machine.ok("wait", f"gpujob/j{i}", "--for=condition=Succeeded", "--timeout=150s")
    assert starts(log) == {f"j{i} 1 0": 1 for i in range(MANY)}
    eventually(lambda: not machine.leases(), what="leases released")


def test_a_standby_takes_over_from_a_leader_that_was_stopped_or_killed(machine: Machine, tmp_path: Path) -> None:
    """A stopped one is not gone, so that its lease must run out; nothing it may hold keeps the other from its work."""

    def token() -> int:
        return int(machine.get("lease", "cumulus-controller")["spec"]["token"])

    def stop_the_first() -> None:
        while True:
            first.send_signal(signal.SIGSTOP)
            eventually(lambda: locks.is_stopped(first.pid), what="stopped")
            if first.pid not in locks.holders(store / "cumulus.db-shm", store / "writers"):
                return
            # In the midst of a write, which nobody but SQLite can break off: others wait with a bound, and name it.
            first.send_signal(signal.SIGCONT)

    store = machine.directory / "cumulus" / "store"
    first = machine.serve()
    machine.ready()
    began = token()
    # Before there is a standby, which would take over before a slow machine has asked.
    stop_the_first()
    try:
        checked = machine.run("doctor")
    finally:
        first.send_signal(signal.SIGCONT)
    assert checked.returncode == 1
    assert f"process {first.pid} (cumulus), which is stopped" in checked.stdout
    assert f"kill -CONT {first.pid}" in checked.stdout
    second = machine.serve()
    log = tmp_path / "starts"
    machine.apply(manifest("one", record(log, "sleep 1")))
    eventually(lambda: starts(log), what="running")
    stop_the_first()
    try:
        machine.apply(manifest("two", record(log, "true")))
        for name in ("one", "two"):
            machine.ok("wait", f"gpujob/{name}", "--for=condition=Succeeded", "--timeout=150s")
        taken_over = token()
        assert taken_over > began
    finally:
        first.send_signal(signal.SIGCONT)
    # The first one stands by now, and the second one is killed amid a job.
    machine.apply(manifest("three", record(log, "sleep 1")))
    eventually(lambda: "three 1 0" in starts(log), what="running")
    second.send_signal(signal.SIGKILL)
    second.wait()
    eventually(lambda: token() > taken_over, what="take-over")
    machine.apply(manifest("four", record(log, "true")))
    for name in ("three", "four"):
        machine.ok("wait", f"gpujob/{name}", "--for=condition=Succeeded", "--timeout=150s")
    assert starts(log) == {"one 1 0": 1, "two 1 0": 1, "three 1 0": 1, "four 1 0": 1}


def test_a_lease_ends_with_no_daemon_and_no_monitor_of_its_own(machine: Machine, tmp_path: Path) -> None:
    daemon = machine.serve()
    machine.ready()
    log = tmp_path / "starts"
    pids = tmp_path / "pids"
    stubborn = (
        f"trap '' TERM; ( setsid sh -c \"trap '' TERM; echo \\$\\$ >> {pids}; while :; do sleep 0.2; done\" & ) ; "
        f"echo $$ >> {pids}; while :; do sleep 0.2; done"
    )
    job = manifest(
        "stubborn", record(log, stubborn), duration="15s", checkpoint={"gracePeriod": "1s", "onExpiry": "Fail"}
    )
    machine.apply(job)
    eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2, what="both processes")
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()

    def alive() -> list[str]:
        return [pid for pid in pids.read_text().split() if Path(f"/proc/{pid}").exists()]

    eventually(lambda: not alive(), what="processes ended with no controller")
    eventually(lambda: not machine.leases(), what="share given back")
    machine.serve()
    machine.ok("wait", "gpujob/stubborn", "--for=condition=Failed", "--timeout=150s")
    assert starts(log) == {"stubborn 1 0": 1}


@WITH_OTHERS
def test_a_gang_is_placed_whole_or_waits_and_why_says_for_whom(served: Machine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    served.apply(manifest("holder", f"while [ ! -e {gate} ]; do sleep 0.1; done", memory="60%", duration="5m"))
    served.ok("wait", "gpujob/holder", "--for=condition=Running", "--timeout=150s")
    served.apply(manifest("gang", "true", memory="30%", replicas=2))
    eventually(lambda: served.get("job", "gang").get("status", {}).get("conditions"), what="a reason")
    assert served.get("job", "gang")["status"]["phase"] == "Pending"
    why = served.ok("why", "gang")
    assert "holder" in why
    gate.touch()
    served.ok("wait", "gpujob/gang", "--for=condition=Succeeded", "--timeout=150s")


@WITH_OTHERS
def test_suspend_and_resume(served: Machine, tmp_path: Path) -> None:
    log = tmp_path / "starts"
    served.apply(manifest("s", record(log, 'if [ "$CUMULUS_ATTEMPT" = 1 ]; then exec sleep 60; fi')))
    eventually(lambda: starts(log), what="running")
    served.ok("suspend", "job", "s")
    served.ok("wait", "gpujob/s", "--for=condition=Suspended", "--timeout=150s")
    eventually(lambda: not served.leases(), what="lease released while suspended")
    served.ok("resume", "job", "s")
    served.ok("wait", "gpujob/s", "--for=condition=Succeeded", "--timeout=150s")
    assert starts(log) == {"s 1 0": 1, "s 2 0": 1}


@WITH_OTHERS
def test_a_deletion_need_not_wait_for_the_jobs_own_grace(served: Machine, tmp_path: Path) -> None:
    log = tmp_path / "starts"
    stubborn = record(log, "trap '' TERM; while :; do sleep 0.1; done")
    served.apply(manifest("stubborn", stubborn, duration="1h", checkpoint={"gracePeriod": "30m"}))
    eventually(lambda: starts(log), what="running")
    served.ok("delete", "job", "stubborn", "--now", "--timeout=150s")
    assert served.items("jobs") == []
    eventually(lambda: not served.leases(), what="lease released")


@WITH_OTHERS
def test_a_matrix_runs_and_a_job_after_it(served: Machine) -> None:
    script = "echo lr=$(CUMULUS_MATRIX_LR) seed=$CUMULUS_MATRIX_SEED"
    axes = ("--matrix", "lr=0.1,0.01", "--matrix", "seed=1,2", "--parallelism", "2")
    served.ok("run", *axes, "--gpu", "10%", "--for", "60s", "--name", "sweep", "--", "sh", "-c", script)
    served.apply(manifest("sum", "true", after={"succeeded": ["array/sweep"]}))
    served.ok("wait", "job/sum", "--for=condition=Succeeded", "--timeout=80s")
    assert served.ok("logs", "sweep-2") == "lr=0.01 seed=1\n"
    assert served.get("array", "sweep")["status"]["succeeded"] == "0-3"
    served.ok("delete", "array", "sweep")


@WITH_OTHERS
def test_a_node_is_kept_empty_for_a_time_to_come(served: Machine) -> None:
    (node,) = (each["metadata"]["name"] for each in served.items("nodes"))
    served.ok("drain", node, "--at", "1h", "--for", "30m")
    try:
        eventually(lambda: "Ready,Drain(in " in served.ok("get", "nodes"), what="the node shows it")
        served.apply(manifest("long", "sleep 600", duration="2h"), manifest("short", "true", duration="10m"))
        served.ok("wait", "job/short", "--for=condition=Succeeded", "--timeout=60s")
        assert served.get("job", "long")["status"]["phase"] == "Pending"
        assert f"drain-{node}" in served.ok("why", "long")
    finally:
        served.ok("drain", node, "--cancel")
    served.ok("wait", "job/long", "--for=condition=Running", "--timeout=60s")
    served.ok("delete", "job", "long", "--now")


def test_sigterm_drains_and_the_jobs_go_on(machine: Machine, tmp_path: Path) -> None:
    daemon = machine.serve()
    machine.ready()
    gate = tmp_path / "gate"
    machine.apply(manifest("long", f"while [ ! -e {gate} ]; do sleep 0.1; done"))
    machine.ok("wait", "gpujob/long", "--for=condition=Running", "--timeout=150s")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(PATIENCE) == 0
    assert machine.leases(), "the job's lease outlives the daemon"
    applied = machine.run("get", "jobs")
    assert applied.returncode == 0
    gate.touch()
    machine.serve()
    machine.ok("wait", "gpujob/long", "--for=condition=Succeeded", "--timeout=150s")


@WITH_OTHERS
def test_a_partition_alone_and_a_lease_taken_beside_it(served: Machine) -> None:
    served.apply(
        {
            "apiVersion": "cumulus.dev/v1alpha1",
            "kind": "GPUPartition",
            "metadata": {"name": "mine"},
            "spec": {"memory": "60%", "duration": "1h", "user": "alice"},
        }
    )
    served.ok("wait", "gpupartition/mine", "--for=condition=Active", "--timeout=150s")
    refused = subprocess.run(
        [CHRONOS_CLI, "create", "0", "0.5", "60"], env=served.env, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 1
    assert "memory free" in refused.stderr
    served.ok("delete", "partition", "mine", "--timeout=150s")
    assert not served.leases()
