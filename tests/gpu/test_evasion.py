"""What a job can undo from inside its lease. Each test states what happens, good or bad: docs/enforcement.md has the
table, and these outcomes are why NVIDIA's GPUs are reported as `guarded`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cumulus.chronos.contract.variables import MPS_MODE, PRELOAD
from cumulus.chronos.enforce.mps import Mps
from cumulus.chronos.enforce.mps_daemon import Daemon
from cumulus.clock import SystemClock

from .conftest import GIB, HUGE, Node, until

REFUSED = "CUDA_ERROR_OUT_OF_MEMORY"
LIMIT = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
PERCENTAGE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
PIPE = "CUDA_MPS_PIPE_DIRECTORY"

NOBODY = "65534"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the evasions by another user need root to be set up")


def daemon(node: Node, lease: dict[str, str]) -> Daemon:
    return Daemon(Path(lease[PIPE]).parent)


def raised(node: Node) -> str:
    """A limit of half of the memory, as a job could write it."""
    return f"0={node.part(0.5) >> 20}M"


def test_shared_raising_ones_own_limit_does_not_work_while_memory_is_counted(node: Node) -> None:
    lease = node.lease("small", 0.05)
    assert node.outcome("device", node.part(HUGE), **{**lease, LIMIT: raised(node)}) == REFUSED
    assert node.outcome("device", node.part(HUGE), **{**lease, LIMIT: raised(node), PRELOAD: ""}) == "ok"


def test_isolated_raising_ones_own_limit_does_not_work(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MPS_MODE, "isolated")
    lease = node.lease("small", 0.05)
    assert node.outcome("device", node.part(HUGE), **{**lease, LIMIT: raised(node)}) == REFUSED


def test_shared_raising_ones_own_percentage_works(node: Node, full_rate: float) -> None:
    (rate,) = node.rates({**node.lease("small", 0.05, 0.25), PERCENTAGE: "100"})
    assert rate > 0.85 * full_rate


def test_isolated_raising_ones_own_percentage_does_not_work(
    node: Node, full_rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MPS_MODE, "isolated")
    (rate,) = node.rates({**node.lease("small", 0.05, 0.25), PERCENTAGE: "100"})
    assert rate == pytest.approx(full_rate / 4, rel=0.15)


@pytest.mark.parametrize("mode", ["shared", "isolated"])
def test_leaving_mps_by_another_pipe_directory_does_not_work_while_memory_is_counted(
    node: Node, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv(MPS_MODE, mode)
    lease = node.lease("small", 0.05)
    assert node.outcome("device", node.part(HUGE), **{**lease, PIPE: "/nonexistent"}) == REFUSED
    assert node.outcome("device", node.part(HUGE), **{**lease, PIPE: "/nonexistent", PRELOAD: ""}) == "ok"


@pytest.mark.parametrize("mode", ["shared", "isolated"])
def test_a_second_process_gets_the_limit_again_only_where_memory_is_not_counted(
    node: Node, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv(MPS_MODE, mode)
    lease = node.lease("small", 0.05)
    for preload, outcome in ((lease[PRELOAD], REFUSED), ("", "ok")):
        first = node.cuda("alloc", "device", node.part(0.0375), **{**lease, PRELOAD: preload})
        assert first.line()["outcome"] == "ok"
        assert node.outcome("device", node.part(0.0375), **{**lease, PRELOAD: preload}) == outcome
        first.kill()


def test_memory_of_the_host_is_not_counted(node: Node) -> None:
    assert node.outcome("host", node.part(0.05) + 2 * GIB, **node.lease("small", 0.05)) == "ok"


def test_another_user_cannot_change_the_daemons_limits(node: Node) -> None:
    lease = node.lease("small", 0.05)
    code = "import os, subprocess, json; os.setgid(65534); os.setuid(65534); print(json.dumps(subprocess.run(" \
        "['nvidia-cuda-mps-control'], input='set_default_active_thread_percentage 7\\n', text=True, " \
        "capture_output=True).stdout))"  # fmt: skip
    assert "Insufficient privileges" in node.python(code, **lease).line()
    assert daemon(node, lease).execute("get_default_active_thread_percentage") == "100.0"


def test_the_same_user_can(node: Node) -> None:
    running = daemon(node, node.lease("small", 0.05))
    running.execute("set_default_active_thread_percentage 7")
    assert running.execute("get_default_active_thread_percentage") == "7.0"


def test_jobs_of_two_users_are_both_limited_at_once(node: Node) -> None:
    one, other = node.lease("one", 0.05), node.lease("other", 0.05)
    first = node.cuda("alloc", "device", GIB, **one)
    assert first.line()["outcome"] == "ok"
    assert node.outcome("device", node.part(HUGE), JOB_UID=NOBODY, **other) == REFUSED
    assert first.alive()


def test_shared_a_job_that_faults_on_the_gpu_ends_its_neighbours_work(node: Node) -> None:
    neighbour = node.cuda("alloc", "device", GIB, **node.lease("one", 0.25))
    assert neighbour.line()["outcome"] == "ok"
    lease = node.lease("other", 0.25)
    node.cuda("fault", **lease).line()
    until(lambda: not neighbour.alive())
    assert node.outcome("device", GIB, **lease) == "CUDA_ERROR_MPS_SERVER_NOT_READY"
    (health,) = Mps("shared").health([node.gpu], node.home)
    assert health.reason == "Restarted"
    assert neighbour.process.poll() is None
    assert node.outcome("device", GIB, **lease) == "ok"
    assert node.outcome("device", node.part(0.27), **lease) == REFUSED


def test_isolated_a_fault_stays_in_its_lease(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MPS_MODE, "isolated")
    neighbour = node.cuda("alloc", "device", GIB, **node.lease("one", 0.25))
    assert neighbour.line()["outcome"] == "ok"
    node.cuda("fault", **node.lease("other", 0.25)).line()
    SystemClock().sleep(1.0)
    assert neighbour.alive()


@pytest.mark.parametrize("which", ["control", "server"])
def test_a_killed_daemon_is_seen_and_started_again(
    node: Node, which: str, measured: Callable[[str, object], None]
) -> None:
    lease = node.lease("small", 0.05)
    program = node.cuda("alloc", "device", GIB, **lease)
    assert program.line()["outcome"] == "ok"
    running = daemon(node, lease)
    victim = running.pid() if which == "control" else int((running.execute("get_server_list") or "").split()[0])
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    until(lambda: not program.alive())
    until(lambda: Mps("shared").health([node.gpu], node.home)[0].reason in ("Restarted", "Answers"))
    assert node.outcome("device", node.part(HUGE), **lease) == REFUSED
    log = (running.log / "control.log").read_text().splitlines()
    measured(f"control.log after the {which} was killed", log[-6:])


def test_a_job_without_its_daemon_is_limited_only_while_memory_is_counted(node: Node) -> None:
    lease = node.lease("small", 0.05)
    daemon(node, lease).stop()
    assert node.outcome("device", node.part(HUGE), **lease) == REFUSED
    assert node.outcome("device", node.part(HUGE), **{**lease, PRELOAD: ""}) == "ok"
