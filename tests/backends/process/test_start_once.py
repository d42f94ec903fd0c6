"""Started once, whatever dies or stops when: daemons and supervisors killed or stopped between any two steps, daemons
that race.

Each job appends a line to a file outside its run, so that what counts is what ran, not what is told.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cumulus.backends.base import Workload, WorkloadState
from cumulus.backends.process import launch as launch_module
from cumulus.backends.process import layout, supervisor
from cumulus.backends.process.command import Command
from cumulus.backends.process.run import MAX_SPAWNS, Run
from cumulus.backends.process.spawner import Spawner
from cumulus.errors import BackendError
from cumulus.lib import processes
from tests.backends.process_bed import ProcessBed, job_processes

STEPS = ("mkdir", "open", "rename", "fsync", "symlink", "posix_spawn", "fork", "pipe2", "write")
"""Calls that change something; a process is killed right after each of them in turn."""


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """Where jobs write that they ran."""
    return tmp_path / "ran"


def job(bed: ProcessBed, ran: Path, number: int = 0, seconds: float = 0.0) -> Workload:
    script = f"echo $$ >> {ran}.{number}; sleep {seconds}"
    return bed.work("sh", "-c", script, job=f"job{number}")


def times(ran: Path, number: int = 0) -> int:
    with contextlib.suppress(FileNotFoundError):
        return len(Path(f"{ran}.{number}").read_text().splitlines())
    return 0


def killed_after(step: int, action: Callable[[], object]) -> bool:
    """Run `action` in a child that is killed after its `step`th call. False: it came to its end before."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            _arm(step)
            action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@contextlib.contextmanager
def stopped_after(step: int, action: Callable[[], object]) -> Iterator[bool]:
    """Run `action` in a child that is stopped after its `step`th call; it goes on, to its end, after the context.
    False: it came to its end before."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _arm(step, signal.SIGSTOP)
            action()
            status = 0
        except BackendError:
            status = 0  # What it was at was purged meanwhile, perhaps: a daemon tries again.
        finally:
            os._exit(status)
    _, status = os.waitpid(child, os.WUNTRACED)
    stopped = os.WIFSTOPPED(status)
    try:
        yield stopped
    finally:
        if stopped:
            os.kill(child, signal.SIGCONT)
            _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def _arm(step: int, number: signal.Signals = signal.SIGKILL) -> None:
    armed, calls = os.getpid(), 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal calls
            result = real(*args, **more)
            if os.getpid() == armed:
                calls += 1
                if calls == step:
                    os.kill(armed, number)
            return result

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def test_a_daemon_killed_at_any_step_of_start(bed: ProcessBed, ran: Path) -> None:
    killed, step = True, 0
    while killed:
        step += 1
        work = job(bed, ran, step)
        killed = killed_after(step, partial(_start, bed, work))
        bed.reopen()
        bed.backend.start(work)
        assert bed.finish(work).state is WorkloadState.SUCCEEDED
        assert times(ran, step) == 1, f"step {step}"
    assert step > 15


def test_a_daemon_killed_at_any_step_and_then_only_looked_at(bed: ProcessBed, ran: Path) -> None:
    """What `get` knows comes to its end by itself; what it does not know was never run, and is purged."""
    killed, step = True, 0
    while killed:
        step += 1
        work = job(bed, ran, step)
        killed = killed_after(step, partial(_start, bed, work))
        bed.reopen()
        if bed.backend.get(work.name) is not None:
            bed.finish(work)
            assert times(ran, step) == 1, f"step {step}"
        else:
            assert times(ran, step) == 0, f"step {step}"
        bed.backend.purge(work.job_uid)
        assert not bed.run_directory(work).parent.exists()
    assert times(ran, step) == 1


def test_a_daemon_stopped_at_any_step_of_start_holds_up_no_other(bed: ProcessBed, ran: Path) -> None:
    """Another starts the same meanwhile, and does not wait; when the first goes on, nothing runs twice."""
    stopped, step = True, 0
    while stopped:
        step += 1
        work = job(bed, ran, step)
        with stopped_after(step, partial(_start, bed, work)) as stopped:
            bed.backend.start(work)
            assert bed.finish(work).state is WorkloadState.SUCCEEDED
        assert bed.seen(work).state is WorkloadState.SUCCEEDED
        assert times(ran, step) == 1, f"step {step}"
    assert step > 15


def test_a_daemon_stopped_at_any_step_of_start_while_the_job_is_purged(bed: ProcessBed, ran: Path) -> None:
    stopped, step = True, 0
    while stopped:
        step += 1
        work = job(bed, ran, step)
        with stopped_after(step, partial(_start, bed, work)) as stopped:
            if bed.backend.get(work.name) is not None:
                bed.finish(work)
            bed.backend.purge(work.job_uid)
        if bed.backend.get(work.name) is not None:
            # There was nothing of it yet that could have been purged.
            bed.finish(work)
        assert times(ran, step) <= 1, f"step {step}"
        bed.backend.purge(work.job_uid)
        assert bed.backend.get(work.name) is None
        assert not bed.run_directory(work).parent.exists()
        assert os.listdir(bed.root / layout.TRASH) == []
    assert step > 15


@pytest.mark.parametrize("what", ["remove", "purge"])
def test_a_daemon_stopped_at_any_step_of_the_end_holds_up_no_other(bed: ProcessBed, ran: Path, what: str) -> None:
    stopped, step = True, 0
    while stopped:
        step += 1
        work = job(bed, ran, step)
        bed.backend.start(work)
        bed.finish(work)
        subject = work.name if what == "remove" else work.job_uid
        with stopped_after(step, lambda: getattr(bed.open(), what)(subject)) as stopped:  # noqa: B023
            getattr(bed.backend, what)(subject)
            bed.backend.start(work)
            assert bed.backend.get(work.name) is None
        assert bed.backend.get(work.name) is None
        bed.backend.purge(work.job_uid)
        assert not bed.run_directory(work).parent.exists()
        assert times(ran, step) == 1
    assert step > 2


@pytest.mark.parametrize("spare", [False, True])
def test_a_supervisor_killed_at_any_step(bed: ProcessBed, ran: Path, spare: bool) -> None:
    """The command runs at most once, and the run always comes to an end that is true; also where what becomes the
    command was there before it."""
    ends = set()
    killed, step = True, 0
    while killed:
        step += 1
        work = job(bed, ran, step)
        bed.start_unsupervised(work)
        bed.backend.close()  # It would reap the supervisor, a child of this process, before the test does.
        killed = killed_after(step, partial(_supervise, str(bed.run_directory(work)), spare=spare))
        bed.reopen()
        end = bed.finish(work)
        ends.add(end.reason)
        assert end.reason in ("", "Lost"), end
        assert times(ran, step) == 1 if end.state is WorkloadState.SUCCEEDED else times(ran, step) <= 1
    assert step > 15
    assert ends == {"", "Lost"}


def _start(bed: ProcessBed, work: Workload) -> None:
    bed.open().start(work)


def _supervise(directory: str, *, spare: bool = False) -> None:
    os.setsid()
    supervisor.main([directory], waiting=launch_module.waiting_child(lambda: None) if spare else None)


def test_daemons_that_start_the_same_at_once(bed: ProcessBed, ran: Path) -> None:
    works = [job(bed, ran, number) for number in range(8)]
    ready, go = os.pipe()
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                backend = bed.open()
                os.close(go)
                os.read(ready, 1)
                for work in works:
                    backend.start(work)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    os.close(ready)
    os.close(go)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    for number, work in enumerate(works):
        assert bed.finish(work).state is WorkloadState.SUCCEEDED
        assert times(ran, number) == 1


def test_supervisors_that_start_the_same_at_once(bed: ProcessBed, ran: Path) -> None:
    bed.backend.start(work := job(bed, ran, seconds=0.3))
    spawner = Spawner(str(bed.root))
    others = [spawner.spawn(bed.found(work).directory, os.environ) for _ in range(5)]
    assert bed.finish(work).state is WorkloadState.SUCCEEDED
    for _, descriptor in others:
        assert select.select([descriptor], [], [], 60)[0]
        os.close(descriptor)
    spawner.close()
    assert times(ran) == 1


class TestLost:
    def test_a_supervisor_that_fails_leaves_nothing_running(
        self, bed: ProcessBed, ran: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: Command) -> None:
            deadline = time.monotonic() + 10
            while not times(ran) and time.monotonic() < deadline:
                time.sleep(0.01)
            raise RuntimeError("a bug")

        monkeypatch.setattr(Command, "run", fail)
        bed.start_unsupervised(work := job(bed, ran, seconds=60))
        bed.backend.close()
        assert not killed_after(10**9, partial(_supervise, str(bed.run_directory(work))))
        assert job_processes(bed.run_directory(work)) == []
        bed.reopen()
        end = bed.seen(work)
        assert (end.reason, end.message) == ("Error", "its supervisor failed: RuntimeError: a bug")
        assert times(ran) == 1

    def test_a_supervisor_that_fails_before_the_start_tells_of_a_start_error(
        self, bed: ProcessBed, ran: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(spec: object) -> dict[str, str]:
            raise RuntimeError("a bug")

        monkeypatch.setattr(supervisor, "resolve_secrets", fail)
        bed.start_unsupervised(work := job(bed, ran))
        bed.backend.close()
        assert not killed_after(10**9, partial(_supervise, str(bed.run_directory(work))))
        bed.reopen()
        end = bed.seen(work)
        assert (end.reason, end.message) == ("StartError", "its supervisor failed: RuntimeError: a bug")
        assert times(ran) == 0

    @pytest.mark.parametrize(("stopped", "reason"), [(False, "Lost"), (True, "Stopped")])
    def test_a_command_killed_before_it_was_let_go_never_ran(
        self, bed: ProcessBed, ran: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool, reason: str
    ) -> None:
        launch = launch_module.launch

        def launch_and_kill(*arguments: Any) -> launch_module.Launched:
            launched = launch(*arguments)
            os.kill(launched.pid, signal.SIGKILL)
            os.waitid(os.P_PID, launched.pid, os.WEXITED | os.WNOWAIT)
            if stopped:
                Path(layout.STOP).touch()
            return launched

        monkeypatch.setattr(supervisor, "launch", launch_and_kill)
        bed.start_unsupervised(work := job(bed, ran))
        bed.backend.close()
        assert not killed_after(10**9, partial(_supervise, str(bed.run_directory(work))))
        bed.reopen()
        assert bed.seen(work).reason == reason
        assert times(ran) == 0

    def test_processes_without_the_mark_are_found_by_their_session(self, bed: ProcessBed) -> None:
        bed.backend.start(work := bed.work("sh", "-c", ": > ready; env -i sleep 1000 & sleep 1000", grace=0.0))
        bed.running(work)
        pid = bed.supervisor(work)
        bed.until(lambda: len(processes.descendants(pid)) == 3)
        found = processes.descendants(pid)
        os.kill(pid, signal.SIGKILL)
        assert bed.finish(work).reason == "Lost"
        assert [pid for pid in found if Path(f"/proc/{pid}/cwd").exists()] == []

    def test_what_a_killed_supervisor_left_is_ended(self, bed: ProcessBed) -> None:
        script = "trap '' TERM; setsid sh -c 'sleep 1000 & sleep 1000' & : > ready; sleep 1000; sleep 1000"
        bed.backend.start(work := bed.work("sh", "-c", script, grace=0.3))
        bed.running(work)
        os.kill(bed.supervisor(work), signal.SIGKILL)
        end = bed.finish(work)
        assert (end.state, end.reason, end.exit_code) == (WorkloadState.FAILED, "Lost", None)
        assert end.started_at
        assert job_processes(bed.run_directory(work)) == []

    def test_it_is_seen_without_looking(self, bed: ProcessBed) -> None:
        heard: list[float] = []
        bed.backend.start(work := bed.work("sh", "-c", ": > ready; sleep 1000", grace=0.0))
        bed.running(work)
        bed.backend.subscribe(lambda *_: heard.append(time.monotonic()))
        heard.clear()
        os.kill(bed.supervisor(work), signal.SIGKILL)
        bed.until(lambda: heard and (bed.run_directory(work) / layout.EXIT).exists())

    def test_one_of_an_earlier_boot_is_told_as_such(self, bed: ProcessBed, ran: Path) -> None:
        bed.backend.start(work := bed.work("sh", "-c", ": > ready; sleep 1000"))
        bed.running(work)
        (bed.run_directory(work) / layout.STARTED).write_text(
            '{"started_at": "2026-01-01T00:00:00.000000Z", "boot_id": "x", "session": 1}'
        )
        os.kill(bed.supervisor(work), signal.SIGKILL)
        end = bed.finish(work)
        assert (end.reason, end.message) == ("Lost", "the machine was restarted while it ran")

    def test_what_has_started_or_ended_is_not_given_up(self, bed: ProcessBed) -> None:
        bed.backend.start(work := bed.work("sh", "-c", ": > ready; sleep 60"))
        bed.running(work)
        assert not bed.found(work).give_up(bed.clock)
        bed.backend.stop(work.name, 0)
        run, end = bed.found(work), bed.finish(work)
        bed.until(lambda: not run.supervisor())
        assert not Run(str(bed.run_directory(work))).give_up(bed.clock)
        bed.reopen()
        assert bed.seen(work) == end

    def test_a_supervisor_that_never_gets_there_is_given_up(self, bed: ProcessBed) -> None:
        bed.spawner = Spawner(str(bed.root), "/no/such/supervisor.py", "/no/such/fork_server.py")
        bed.reopen()
        _, end = bed.run("true")
        assert (end.state, end.reason) == (WorkloadState.FAILED, "StartError")
        assert f"ended {MAX_SPAWNS} times before it could start the command" in end.message
        assert "/no/such/supervisor.py" in end.message
