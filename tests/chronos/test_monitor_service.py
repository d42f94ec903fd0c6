"""The real monitor on real processes, with leases of a fraction of a second."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cumulus.chronos import monitor_control, monitor_service
from cumulus.chronos.contract import EndReason, LeaseState
from cumulus.chronos.contract.variables import PARTITION_ID
from cumulus.chronos.ledger import Ledger
from cumulus.clock import SystemClock
from cumulus.lib import cgroup, processes
from tests.chronos.conftest import end_monitor, open_ledger, request
from tests.processes import cgroups_of
from tests.waiting import PATIENCE, eventually

Run = Callable[..., subprocess.Popen[bytes]]

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
WHEN_ATTACHED = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while not os.path.exists(os.environ["OUT"] + "/attached"):
    time.sleep(0.01)
"""
# Forks twice, into a session of its own, ignores SIGTERM, and has nothing of its lease in its environment.
DAEMON = f"""{WHEN_ATTACHED}
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(os.environ["OUT"] + "/daemon", "w").write(str(os.getpid()))
        time.sleep(60)
    os._exit(0)
time.sleep(60)
"""
STARTER = """
import pathlib, sys
from cumulus.chronos.monitor_control import ensure_running
ensure_running(pathlib.Path(sys.argv[1]))
"""
# Each process lives for the fraction of a millisecond that it takes to fork the next and exit.
HOPPER = """
print("up", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
"""
BOMB = """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("up", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    if os.fork() == 0:
        time.sleep(0.03)
        os._exit(0)
"""


SELDOM = """
from cumulus.chronos import monitor_control, monitor_service
monitor_control.POLL = 600.0
monitor_service.main([{home!r}])
"""
"""A monitor that looks by itself every ten minutes."""


@pytest.fixture
def real(home: Path) -> Ledger:
    """On the machine's clock, hence with a monitor."""
    return open_ledger(home)


@pytest.fixture(params=["cgroup", "scan"])
def either(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A ledger that can put processes into cgroups, and one that must find them without."""
    ledger = open_ledger(home)
    if request.param == "scan":
        monkeypatch.setattr(cgroup, "enclose", lambda pid, name: None)
    elif cgroup.why_unavailable()[0]:
        pytest.skip("no cgroup can be made here")
    yield ledger
    eventually(lambda: not cgroups_of(home))


def state(ledger: Ledger, id: str) -> tuple[LeaseState, EndReason | None]:
    lease = ledger.get(id)
    assert lease is not None
    return lease.state, lease.end_reason


def ended(ledger: Ledger, id: str) -> bool:
    return state(ledger, id)[0] is LeaseState.ENDED


def daemon_pid(tmp_path: Path) -> int:
    """Let the daemon go, and wait until it has left."""
    (tmp_path / "attached").touch()
    eventually(lambda: (tmp_path / "daemon").exists() and (tmp_path / "daemon").read_text())
    return int((tmp_path / "daemon").read_text())


def up(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """The process once it runs its program: starting Python may take longer than the leases here last."""
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_expired_lease_ends_its_process_on_time_and_frees_the_share(real: Ledger, run: Run) -> None:
    process = up(run(SLEEP))
    granted = time.monotonic()
    lease = real.grant(request(seconds=4.0, grace=30))
    real.attach("a", process.pid, lease.token)
    assert process.wait(PATIENCE) == -signal.SIGTERM
    assert time.monotonic() - granted > 4.0
    eventually(lambda: ended(real, "a"))
    assert state(real, "a") == (LeaseState.ENDED, EndReason.EXPIRED)
    assert real.usage(0).memory_bytes == 0


def test_what_ignores_sigterm_is_killed_after_the_grace_period(real: Ledger, run: Run) -> None:
    process = up(run(STUBBORN))
    granted = time.monotonic()
    lease = real.grant(request(seconds=4.0, grace=0.7))
    real.attach("a", process.pid, lease.token)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert time.monotonic() - granted > 4.0 + 0.7
    eventually(lambda: ended(real, "a"))


def test_a_released_lease_ends_its_process_at_once(real: Ledger, run: Run, home: Path) -> None:
    """The monitor is poked. Without, this one would look ten minutes later."""
    monitor = run(SELDOM.format(home=str(home)))
    eventually(lambda: monitor_control.running(home) == monitor.pid)
    process = up(run(SLEEP))
    real.attach("a", process.pid, real.grant(request(grace=30)).token)
    real.release("a")
    assert process.wait(PATIENCE) == -signal.SIGTERM
    eventually(lambda: ended(real, "a"))
    assert state(real, "a") == (LeaseState.ENDED, EndReason.RELEASED)


def test_a_daemon_that_left_its_session_is_ended(either: Ledger, run: Run, tmp_path: Path) -> None:
    process = run(DAEMON)
    either.attach("a", process.pid, either.grant(request()).token)
    pid = daemon_pid(tmp_path)
    either.release("a")
    assert process.wait(PATIENCE) == -signal.SIGKILL
    eventually(lambda: ended(either, "a"))
    assert not runs(pid)


def test_a_daemon_is_ended_though_its_parents_have_gone(either: Ledger, run: Run, tmp_path: Path) -> None:
    process = run(DAEMON.removesuffix("time.sleep(60)\n"), **{PARTITION_ID: "other,a"})
    either.attach("a", process.pid, either.grant(request()).token)
    pid = daemon_pid(tmp_path)
    assert process.wait(PATIENCE) == 0
    assert runs(pid)
    either.release("a")
    eventually(lambda: ended(either, "a"))
    assert not runs(pid)


@pytest.mark.parametrize("storm", [HOPPER, BOMB], ids=["hopper", "bomb"])
def test_what_forks_faster_than_it_can_be_seen_is_ended(either: Ledger, run: Run, tmp_path: Path, storm: str) -> None:
    id = f"storm-{os.getpid()}-{tmp_path.name}"
    process = run(f"{WHEN_ATTACHED}{storm}", session=True, **{PARTITION_ID: id})
    either.attach(id, process.pid, either.grant(request(id, grace=0.1)).token)
    (tmp_path / "attached").touch()
    up(process)
    either.release(id)
    eventually(lambda: ended(either, id))
    assert _alive_with(f"{PARTITION_ID}={id}") == 0


def test_a_session_is_remembered_when_its_maker_has_gone(either: Ledger, run: Run, tmp_path: Path) -> None:
    process = run(DAEMON)
    either.attach("a", process.pid, either.grant(request(grace=0.1)).token)
    pid = daemon_pid(tmp_path)
    with either.database.read() as db:
        eventually(lambda: db.execute("SELECT 1 FROM session UNION SELECT 1 FROM cgroup").fetchall())
    process.kill()
    process.wait()
    assert runs(pid)
    either.release("a")
    eventually(lambda: ended(either, "a"))
    assert not runs(pid)


def test_a_process_is_found_by_its_environment_alone(real: Ledger, run: Run) -> None:
    process = up(run(SLEEP, **{PARTITION_ID: "a"}))
    bystander = up(run(SLEEP, **{PARTITION_ID: "aa", "NOT_" + PARTITION_ID: "a"}))
    real.grant(request(seconds=0.3, grace=30))
    assert process.wait(PATIENCE) == -signal.SIGTERM
    eventually(lambda: ended(real, "a"))
    assert bystander.poll() is None


def test_the_supervisor_of_a_job_is_left_alone(real: Ledger, run: Run, tmp_path: Path) -> None:
    process = run(
        "import os, time\n"
        "child = os.fork()\n"
        "if child == 0: time.sleep(60)\n"
        "print('up', flush=True)\n"
        "print(os.waitpid(child, 0)[1], flush=True)\n"
        "time.sleep(60)",
        **{PARTITION_ID: "a"},
    )
    real.attach("a", up(process).pid, real.grant(request(grace=30)).token, role="supervisor")
    real.release("a")
    assert process.stdout is not None
    assert process.stdout.readline() == b"15\n"
    eventually(lambda: ended(real, "a"))
    assert process.poll() is None


def test_a_lease_is_released_when_its_holder_has_gone(real: Ledger, run: Run) -> None:
    holder = run(SLEEP)
    real.attach("a", holder.pid, real.grant(request()).token, role="holder")
    holder.kill()
    holder.wait()
    eventually(lambda: ended(real, "a"))
    assert state(real, "a") == (LeaseState.ENDED, EndReason.RELEASED)


def test_renewing_keeps_the_process_alive(real: Ledger, run: Run) -> None:
    process = up(run(SLEEP))
    granted = time.monotonic()
    lease = real.grant(request(seconds=8.0))
    real.attach("a", process.pid, lease.token)
    real.renew("a", 60)
    time.sleep(max(0.0, granted + 8.3 - time.monotonic()))
    assert process.poll() is None
    assert state(real, "a") == (LeaseState.ACTIVE, None)


def test_a_killed_monitor_is_replaced_and_what_it_left_is_ended(real: Ledger, run: Run, home: Path) -> None:
    process = up(run(STUBBORN))
    lease = real.grant(request(seconds=8.0, grace=0.3))
    granted = time.monotonic()
    real.attach("a", process.pid, lease.token)
    end_monitor(home)
    time.sleep(max(0.0, granted + 8.5 - time.monotonic()))
    assert process.poll() is None
    # Asking starts the next monitor.
    assert state(real, "a") == (LeaseState.ENDING, EndReason.EXPIRED)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    eventually(lambda: ended(real, "a"))


def test_a_monitor_that_was_stopped_by_a_signal_is_continued_by_whoever_asks(
    real: Ledger, run: Run, home: Path
) -> None:
    """A job of the monitor's own user can do that."""
    process = up(run(SLEEP))
    lease = real.grant(request())
    real.attach("a", process.pid, lease.token)
    monitor = monitor_control.holder(home)
    assert monitor is not None
    os.kill(monitor.pid, signal.SIGSTOP)
    eventually(lambda: processes.is_stopped(monitor))
    real.release("a")
    eventually(lambda: real.list() == [])
    assert process.wait(PATIENCE) < 0


def test_what_leaves_its_cgroup_is_put_back_and_ends_with_the_lease(real: Ledger, run: Run, home: Path) -> None:
    if cgroup.why_unavailable()[0]:
        pytest.skip(f"leaving a cgroup is NOT tested: {cgroup.why_unavailable()[0]}")
    process = up(run(STUBBORN))
    lease = real.grant(request())
    real.attach("a", process.pid, lease.token)
    (directory,) = cgroups_of(home)
    assert cgroup.enter(os.path.dirname(directory), process.pid)
    eventually(lambda: cgroup.members(directory) == {process.pid})
    real.release("a")
    assert process.wait(PATIENCE) == -signal.SIGKILL
    eventually(lambda: not cgroups_of(home))


def test_any_call_starts_the_monitor_again_while_a_lease_is_live(real: Ledger, run: Run, home: Path) -> None:
    process = up(run(SLEEP))
    lease = real.grant(request(seconds=4.0, grace=30))
    real.attach("a", process.pid, lease.token)
    end_monitor(home)
    # Who reads all the time looks at the monitor ten times a second.
    eventually(lambda: real.list() and monitor_control.running(home))
    assert process.wait(PATIENCE) == -signal.SIGTERM


def test_there_is_one_monitor_however_many_start_it(home: Path) -> None:
    home.mkdir()
    starters = [subprocess.Popen([sys.executable, "-c", STARTER, str(home)]) for _ in range(4)]
    assert [starter.wait(PATIENCE) for starter in starters] == [0] * 4
    pid = monitor_control.running(home)
    assert _monitors(home) == [pid]


def test_the_monitor_survives_who_started_it_and_keeps_nothing_of_it(home: Path) -> None:
    home.mkdir()
    subprocess.run([sys.executable, "-c", STARTER, str(home)], check=True, env={**os.environ, "SECRET": "1"})
    pid = monitor_control.running(home)
    assert pid
    assert os.getsid(pid) == pid or os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert b"SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert {os.path.basename(os.readlink(f"/proc/{pid}/fd/{fd}")) for fd in (0, 1, 2)} == {"null", "monitor.log"}


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_an_idle_time_that_is_none_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setenv("CHRONOS_MONITOR_IDLE", text)
    assert monitor_service.main([str(home)]) == 2
    assert f"CHRONOS_MONITOR_IDLE={text} is not a number of seconds; set" in capsys.readouterr().err


def test_an_idle_monitor_exits_and_leaves_no_lease_unwatched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONOS_MONITOR_IDLE", "0.1")
    ledger = open_ledger(home)
    ledger.grant(request("a", seconds=0.2))
    eventually(lambda: monitor_control.running(home) is None)
    assert ended(ledger, "a")
    ledger.grant(request("b", seconds=60.0))
    time.sleep(0.5)
    assert monitor_control.running(home)


def test_the_monitor_leaves_when_the_ledger_is_deleted(home: Path) -> None:
    ledger = open_ledger(home)
    ledger.grant(request(seconds=0.2))
    pid = monitor_control.running(home)
    assert pid
    for file in home.iterdir():
        file.unlink()
    eventually(lambda: not runs(pid))


def test_the_monitor_stops_on_sigterm_and_leases_go_on(real: Ledger, home: Path) -> None:
    real.grant(request(seconds=60.0))
    pid = monitor_control.running(home)
    assert pid
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: monitor_control.running(home) is None)
    assert state(real, "a")[0] is LeaseState.ACTIVE


@pytest.mark.parametrize("later", [0, 1])
def test_whoever_has_the_pid_of_a_monitor_by_now_is_not_signalled(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    """The lock is held by one that has not said yet who it is; the file names one that is gone, or is not."""
    monkeypatch.setattr(monitor_service, "_LOCK_PATIENCE", 0.05)
    home.mkdir()
    process = up(run("import time; print('up', flush=True); time.sleep(60)"))
    found = processes.read(process.pid)
    assert found is not None
    with open(home / "monitor.pid", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{process.pid} {found.start + later}\n")
        lock.flush()
        with pytest.raises(monitor_service.AlreadyRunning):
            monitor_service.MonitorService(home, None, take_over=True)
    if later:
        assert process.poll() is None
    else:
        assert process.wait(PATIENCE) == -signal.SIGTERM


def test_a_lock_on_a_file_that_was_removed_is_not_taken(home: Path) -> None:
    home.mkdir()
    path = home / "monitor.pid"
    first = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    path.unlink()
    assert not monitor_service._is_at(first, path)
    second = monitor_service._take_lock(path, (1, 2))
    assert monitor_service._is_at(second, path)
    assert monitor_control.running(home) == os.getpid()
    os.close(first)
    os.close(second)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_service_takes_over_from_the_monitor_that_runs(
    real: Ledger, home: Path, tmp_path: Path, stopped: bool
) -> None:
    real.grant(request(seconds=60.0))
    first = monitor_control.running(home)
    if stopped:
        assert first is not None
        os.kill(first, signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        taker = subprocess.Popen(
            [sys.executable, "-m", "cumulus.chronos", "monitor", "--take-over"],
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        )
        try:
            assert systemd.recv(100) == b"READY=1"
            assert monitor_control.running(home) == taker.pid != first
            assert systemd.recv(100) == b"WATCHDOG=1"
        finally:
            taker.terminate()
            assert taker.wait(PATIENCE) == 0


def test_every_grant_and_end_is_in_the_audit_log_once(real: Ledger, home: Path) -> None:
    for number in range(3):
        real.grant(request(f"a{number}", seconds=0.2, user="ada"))
    real.release("a2")
    log = home / "audit.log"
    eventually(lambda: log.exists() and len(log.read_text().splitlines()) == 6)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert sorted((line["event"], line["lease"], line["user"]) for line in lines) == [
        ("expired", "a0", "ada"),
        ("expired", "a1", "ada"),
        ("granted", "a0", "ada"),
        ("granted", "a1", "ada"),
        ("granted", "a2", "ada"),
        ("released", "a2", "ada"),
    ]


def test_no_monitor_is_started_inside_a_lease(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARTITION_ID, "a")
    open_ledger(home, SystemClock()).grant(request(seconds=60.0))
    assert monitor_control.running(home) is None


def _alive_with(variable: str) -> int:
    """How many processes have it in their environment."""
    count = 0
    for _ in range(5):
        for name in os.listdir("/proc"):
            try:
                if name.isdecimal() and variable.encode() in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    count += 1
            except OSError:
                continue
    return count


def _monitors(home: Path) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if b"cumulus.chronos.monitor_service" in command and str(home).encode() in command:
                found.append(int(name))
    return found
