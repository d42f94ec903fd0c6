"""cumulus-run, the first program of a job's container, as a process of this machine: it needs no container."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import PATIENCE, eventually

RUNNER = Path(__file__).resolve().parents[2] / "containers" / "runner.py"
FUTURE, PAST = "2099-01-01T00:00:00.000000Z", "2001-01-01T00:00:00.000000Z"


def start(*command: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(RUNNER), *command], env={"PATH": os.environ["PATH"], **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, output, errors


@pytest.mark.parametrize(("command", "code", "reason"), [
    (("sh", "-c", "exit 7"), 7, "exit code 7"),
    (("sh", "-c", "kill -9 $$"), 137, "SIGKILL"),
    (("true",), 0, "exit code 0"),
])  # fmt: skip
def test_it_ends_as_its_command_and_says_why(command: tuple[str, ...], code: int, reason: str) -> None:
    status, _, errors = ended(start(*command))
    assert (status, errors.strip().endswith(reason)) == (code, True)


def test_a_command_that_is_not_there() -> None:
    assert ended(start("nosuch"))[0] == 127


@pytest.mark.parametrize(("files", "ran"), [
    (("main.py", "other.py"), "main.py"),
    (("only.py", "data.txt"), "only.py"),
])  # fmt: skip
def test_without_a_command_it_runs_what_is_mounted(files: tuple[str, ...], ran: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_text("import os, sys; print(os.path.basename(sys.argv[0]), os.getcwd())")
    status, output, errors = ended(start(CUMULUS_JOB_DIR=str(tmp_path)))
    assert (status, output) == (0, f"{ran} {tmp_path}\n"), errors


@pytest.mark.parametrize("files", [(), ("one.py", "two.py")])
def test_without_a_command_and_a_program_it_says_what_to_do(files: tuple[str, ...], tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).touch()
    status, _, errors = ended(start(CUMULUS_JOB_DIR=str(tmp_path)))
    assert status == 64
    assert f"give a command, or mount a directory with a main.py at {tmp_path}" in errors


def test_nothing_begins_when_the_lease_is_over() -> None:
    status, output, _ = ended(start("echo", "begun", CHRONOS_EXPIRES_AT=PAST))
    assert (status, output) == (69, "")


def test_a_stop_signal_reaches_the_command_once(tmp_path: Path) -> None:
    """The container's init and the node's monitor both send it; programs take a second one for impatience."""
    script = "trap 'echo told; : > told' TERM; : > ready; while [ ! -e done ]; do sleep 0.05; done"
    process = subprocess.Popen(
        [sys.executable, str(RUNNER), "sh", "-c", script], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    eventually((tmp_path / "ready").exists)
    process.send_signal(signal.SIGTERM)
    eventually((tmp_path / "told").exists)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    (tmp_path / "done").touch()
    assert ended(process)[1] == "told\n"


def test_the_state_is_kept_at_the_stop_signal_and_found_again(tmp_path: Path) -> None:
    state, kept = tmp_path / "state", tmp_path / "kept"
    state.mkdir()
    places = {"CUMULUS_STATE_DIR": str(state), "CUMULUS_CHECKPOINT_PATH": str(kept), "CHRONOS_EXPIRES_AT": FUTURE}
    script = f"echo 41 > {state}/step; : > {tmp_path}/ready; sleep 60"
    process = start("sh", "-c", script, **places)
    eventually((tmp_path / "ready").exists)
    process.send_signal(signal.SIGTERM)
    status, _, errors = ended(process)
    assert (status, "kept its state" in errors) == (143, True)
    (state / "step").unlink()
    assert ended(start("cat", f"{state}/step", **places))[1] == "41\n"


def test_a_signal_that_comes_while_the_command_is_being_started_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("runner", RUNNER)
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    made = subprocess.Popen

    def signalled(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        child = made(*args, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        return child

    before = {number: signal.getsignal(number) for number in runner.FORWARDED}
    monkeypatch.setattr(runner.subprocess, "Popen", signalled)
    try:
        assert runner.Run(["sleep", "60"]).run() == 128 + signal.SIGTERM
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(("latest", "seconds"), [(3600.0, 60.0), (60.0, 3600.0)])
def test_the_program_is_told_the_end_that_comes_first(latest: float, seconds: float) -> None:
    end = (datetime.now(UTC) + timedelta(seconds=latest)).isoformat()
    lease = {"CHRONOS_EXPIRES_AT": end, "CHRONOS_LEASE_SECONDS": str(seconds), "CUMULUS_LEASE_DEADLINE": "/file"}
    begun = time.clock_gettime(time.CLOCK_BOOTTIME)
    _, told, _ = ended(start("sh", "-c", "echo $CUMULUS_LEASE_DEADLINE", **lease))
    # Nobody takes so long to start.
    assert begun + 50 < float(told) < begun + 600


def test_an_attempt_that_was_not_stopped_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "x").touch()
    kept = tmp_path / "kept"
    ended(start("true", CUMULUS_STATE_DIR=str(tmp_path / "state"), CUMULUS_CHECKPOINT_PATH=str(kept)))
    assert not kept.exists()


def test_progress_is_told() -> None:
    _, _, errors = ended(start("sleep", "0.5", CUMULUS_HEARTBEAT="0.2", CHRONOS_EXPIRES_AT=FUTURE))
    assert "has run for" in errors
    assert "its lease ends in" in errors
