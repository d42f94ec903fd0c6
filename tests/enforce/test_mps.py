"""MPS with a stand-in for NVIDIA's control daemon, which listens, answers, hangs and dies as that does. The real one
is in tests/gpu.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cumulus.chronos import enforce
from cumulus.chronos.contract import LeaseRequest
from cumulus.chronos.contract.variables import MPS_MODE
from cumulus.chronos.enforce import mps_daemon
from cumulus.chronos.enforce.mps import Mps
from cumulus.chronos.enforce.mps_daemon import CONTROL, Daemon
from cumulus.chronos.ledger import Ledger
from cumulus.errors import ChronosError
from cumulus.lib import locks
from cumulus.lib.processes import ProcessIdentity, is_alive, read
from cumulus.resources.enforcement import Enforcement
from tests.waiting import PATIENCE, eventually

from .conftest import CPU, make_lease
from .test_select import H100

STAND_IN = """#!{python} -S
import os, signal, socket, sys, time
pipe = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
if "-d" in sys.argv:
    if os.path.exists(pipe + "/refuse"):
        print("An instance of this daemon is already running"); sys.exit(1)
    listening = socket.socket(socket.AF_UNIX); path = pipe + "/control"
    if os.path.exists(path): os.unlink(path)
    listening.bind(path); listening.listen()
    open(pipe + "/environment", "w").write("\\n".join(sorted(os.environ)))
    if os.fork(): os._exit(0)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2): os.dup2(null, fd)
    open(pipe + "/{control}.pid", "w").write(str(os.getpid()))
    said = []
    while True:
        client, _ = listening.accept()
        command = client.makefile().readline().strip(); said.append(command)
        if command == "hang" or os.path.exists(pipe + "/stuck"): time.sleep(60)
        answers = {{"said": "; ".join(said)}}
        if os.path.exists(pipe + "/fault"): answers |= {{"get_server_list": "4711", "get_server_status 4711": "FAULT"}}
        client.sendall(answers.get(command, "").encode()); client.close()
        if command == "quit": sys.exit()
client = socket.socket(socket.AF_UNIX)
try: client.connect(pipe + "/control")
except OSError: print("Cannot find MPS control daemon process"); sys.exit(1)
client.sendall(sys.stdin.readline().encode()); print(client.makefile().read())
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the way of programs, also of those that tests start."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / CONTROL
    program.write_text(STAND_IN.format(python=os.path.realpath(sys.executable), control=CONTROL))
    program.chmod(0o755)
    smi = programs / "nvidia-smi"
    smi.write_text('#!/bin/sh\ncat "$(dirname "$0")/mode" 2>/dev/null || echo Default\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


@pytest.fixture
def control(stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home for Chronos on a machine with the stand-in; what was started is ended."""
    monkeypatch.setattr(mps_daemon, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(mps_daemon, "runtime_directory", lambda home: home)
    monkeypatch.setattr("cumulus.chronos.enforce.mps.runtime_directory", lambda home: home)
    home = tmp_path / "h"
    home.mkdir()
    yield home
    for place in home.glob("mps-*"):
        Daemon(place).stop()


def shared(home: Path) -> Daemon:
    return Daemon(home / "mps-shared")


def test_a_lease_gets_its_part_of_a_daemon_that_is_started_once(control: Path) -> None:
    variables = Mps("shared").environment(make_lease("a", 4 * 2**30), H100, control)
    pid = shared(control).pid()
    assert pid is not None
    assert variables["CUDA_MPS_PIPE_DIRECTORY"] == str(control / "mps-shared" / "pipe")
    assert variables["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "GPU-1234=4096M"
    assert variables["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "50"
    Mps("shared").environment(make_lease("b", 2**30), H100, control)
    assert shared(control).pid() == pid


def test_the_daemon_carries_no_lease_of_whoever_started_it(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHRONOS_PARTITION_ID", "somebody")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    Mps("shared").environment(make_lease("a", 2**30), H100, control)
    names = (shared(control).pipe / "environment").read_text().split()
    assert {"CHRONOS_PARTITION_ID", "CUDA_VISIBLE_DEVICES"}.isdisjoint(names)


@pytest.mark.skipif(os.geteuid() != 0, reason="THE PRIORITY OF MPS IS NOT TESTED: a higher one than 0 takes root")
def test_the_daemon_has_no_priority_over_others_though_the_monitor_has(control: Path) -> None:
    found = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    try:
        Mps("shared").environment(make_lease("a", 2**30), H100, control)
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, found)
    pid = shared(control).pid()
    assert pid is not None
    assert os.getpriority(os.PRIO_PROCESS, pid) == 0


def test_isolated_leases_have_daemons_of_their_own_that_go_with_them(control: Path) -> None:
    isolated = Mps("isolated")
    places = {}
    for id in ("a", "b"):
        lease = replace(make_lease(id, 2**30), compute=125)
        places[id] = Daemon(Path(isolated.environment(lease, H100, control)["CUDA_MPS_PIPE_DIRECTORY"]).parent)
    said = places["a"].execute("said")
    assert "set_default_device_pinned_mem_limit 0 1024M; set_default_active_thread_percentage 12.5" in (said or "")
    assert "CUDA_VISIBLE_DEVICES" in (places["a"].pipe / "environment").read_text()
    isolated.forget("a", control)
    assert places["a"].pid() is None
    assert places["b"].pid() is not None


@pytest.mark.parametrize("how", ["killed", "stuck"])
def test_a_daemon_that_is_down_or_stuck_is_reported_and_started_again(control: Path, how: str) -> None:
    mps = Mps("shared")
    assert mps.health([H100], control)[0].reason == "NotNeededYet"
    mps.environment(make_lease("a", 2**30), H100, control)
    assert mps.health([H100], control)[0].reason == "Answers"
    pid = shared(control).pid()
    proc = read(pid or 0)
    assert pid is not None
    assert proc is not None
    if how == "killed":
        os.kill(pid, signal.SIGKILL)
    else:
        (shared(control).pipe / "stuck").touch()
        shared(control).execute("hang")
        (shared(control).pipe / "stuck").unlink()
    condition = mps.health([H100], control)[0]
    assert (condition.status, condition.reason) == (True, "Restarted")
    eventually(lambda: not is_alive(ProcessIdentity(pid, proc.start)))
    assert mps.health([H100], control)[0].reason == "Answers"


def test_one_that_does_not_start_is_reported_and_starts_no_job(control: Path) -> None:
    shared(control).pipe.mkdir(parents=True)
    (shared(control).pipe / "refuse").touch()
    with pytest.raises(ChronosError, match="already running"):
        Mps("shared").environment(make_lease("a", 2**30), H100, control)
    assert Mps("shared").health([H100], control)[0].reason == "DoesNotStart"


@pytest.mark.parametrize(
    ("mode", "compute_mode", "enforcement", "reason"),
    [
        ("shared", "Default", Enforcement.GUARDED, "MPS limits"),
        ("shared", "Exclusive_Process", Enforcement.GUARDED, "MPS limits"),
        ("isolated", "Exclusive_Process", Enforcement.NONE, "one MPS daemon alone"),
        ("shared", "Prohibited", Enforcement.NONE, "Prohibited"),
        ("off", "Default", Enforcement.NONE, "switched off"),
        ("sharde", "Default", Enforcement.NONE, "CHRONOS_MPS=sharde is unknown"),
    ],
)
def test_what_is_reported_in_each_mode(
    control: Path, mode: str, compute_mode: str, enforcement: Enforcement, reason: str
) -> None:
    (control.parent / "bin/mode").write_text(f"{compute_mode}\n")
    report = Mps(mode).strength(H100, control)
    assert report.enforcement is enforcement
    assert reason in report.reason
    assert bool(report.remedy) is (enforcement is Enforcement.NONE)
    if enforcement is Enforcement.NONE:
        assert Mps(mode).environment(make_lease("a", 2**30), H100, control) == {}


def test_an_nvidia_gpu_with_mps_and_the_layer_is_guarded(
    control: Path, layer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUMULUS_OPENCL_LAYER", str(layer))
    monkeypatch.delenv(MPS_MODE, raising=False)
    assert enforce.strength(H100, control).enforcement is Enforcement.GUARDED
    variables = enforce.environment(make_lease("a", 2**30), H100, control)
    assert {"OPENCL_LAYERS", "CUDA_MPS_PIPE_DIRECTORY", "PYTHONPATH"} <= set(variables)


def test_no_daemon_is_started_for_a_cpu(control: Path) -> None:
    assert Mps("shared").environment(make_lease("a", 2**30), CPU, control) == {}
    assert not shared(control).was_started()


def test_sockets_have_a_short_path_and_nobody_elses_directory_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(ChronosError, match="not this user's"):
        mps_daemon.runtime_directory(tmp_path / ("deep/" * 30))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    place = mps_daemon.runtime_directory(tmp_path / ("deep/" * 30))
    assert len(str(place)) < 80 + len(str(tmp_path))
    if place.parent != tmp_path:
        place.rmdir()


def test_a_server_that_waits_after_a_fault_is_replaced_where_no_other_gpu_depends_on_it(control: Path) -> None:
    Mps("shared").environment(make_lease("a", 2**30), H100, control)
    stuck = shared(control).pid()
    (shared(control).pipe / "fault").touch()
    assert shared(control).faulted()
    (health,) = Mps("shared").health([H100, replace(H100, index=1, id="GPU-5678")], control)
    assert (health.status, health.reason) == (False, "Faulted")
    assert shared(control).pid() == stuck
    (health,) = Mps("shared").health([H100], control)
    assert (health.status, health.reason) == (True, "Restarted")
    assert shared(control).pid() not in (None, stuck)
    assert Mps("shared").health([H100], control)[0].reason == "Answers"


def test_programs_that_hang_on_after_a_fault_are_ended_where_another_gpu_has_work(control: Path) -> None:
    """As its log names them, seen with driver 580: a program of another daemon, of another server or of none stays."""
    variables = Mps("shared").environment(make_lease("a", 2**30), H100, control)
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); signal.pause()"
    stays = {**variables, "CUDA_MPS_PIPE_DIRECTORY": "/elsewhere"}
    programs = [
        subprocess.Popen([sys.executable, "-S", "-c", ignoring], env=env, stdout=subprocess.PIPE)
        for env in (variables, variables, variables, stays)
    ]
    hung, other_server, healthy, elsewhere = (program.pid for program in programs)
    try:
        for program in programs:
            assert program.stdout is not None
            program.stdout.readline()
        log = shared(control).log / "server.log"
        stamp = "[2026-11-24 20:53:23.356 Server  {}] {}"
        lines = [(4711, "The following devices will be reset:"), (4711, "0")]
        lines += [(4711, "The following client process have a sticky error set:")]
        lines += [(4711, str(hung)), (4712, str(other_server)), (4711, str(elsewhere))]
        lines += [(4711, "Client process 1 disconnected"), (4711, str(healthy))]
        log.write_text("".join(f"{stamp.format(*line)}\n" for line in lines))
        (shared(control).pipe / "fault").touch()
        gpus = [H100, replace(H100, index=1, id="GPU-5678")]
        assert Mps("shared").health(gpus, control)[0].reason == "Faulted"
        assert all(program.poll() is None for program in programs), "they are told first"
        Mps("shared").health(gpus, control)
        assert programs[0].wait(PATIENCE) == -signal.SIGKILL
        assert [program.poll() for program in programs[1:]] == [None] * 3
        (shared(control).pipe / "fault").unlink()
        assert Mps("shared").health(gpus, control)[0].reason == "Answers"
    finally:
        for program in programs:
            program.kill()
            program.wait()


def test_the_monitor_starts_a_daemon_again_that_was_killed_and_the_node_says_so(stand_in: None, tmp_path: Path) -> None:
    """No controller asks for it: the node looks after itself."""
    home = tmp_path / "chronos"
    ledger = Ledger(home, discover=lambda: [H100], start_monitor=False)
    ledger.devices()
    ledger.grant(LeaseRequest("mps-monitored", 0, 2**30, 100, 600.0))
    Mps("shared").environment(make_lease("mps-monitored", 2**30), H100, home)
    daemon = Daemon(mps_daemon.runtime_directory(home) / "mps-shared")

    def mps() -> str:
        return next((found.reason for found in ledger.health() if found.type == "MPSReady"), "")

    monitor = subprocess.Popen([sys.executable, "-m", "cumulus.chronos.monitor_service", str(home)])
    try:
        eventually(lambda: mps() == "Answers", what="the first look")
        killed = daemon.pid()
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: mps() == "Restarted", what="mended and told")
        assert daemon.pid() not in (None, killed)
    finally:
        ledger.release("mps-monitored")
        monitor.terminate()
        monitor.wait(PATIENCE)
        ledger.close()
        daemon.stop()
        shutil.rmtree(daemon.place.parent)


def test_a_stopped_process_that_starts_mps_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "acquire", lambda descriptor, seconds: False)
    with pytest.raises(ChronosError, match="has been locked for"):
        Daemon(tmp_path).ensure()
