"""What every `Backend` must do, run on each: a subclass gives a `Bed`, the tests come from here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cumulus.backends.base import Backend, Observed, Workload, WorkloadState
from cumulus.calls.session import SessionEnded
from cumulus.errors import BackendError, NotRunning
from cumulus.lib.execution import ExecRequest, Execution
from tests.waiting import PATIENCE


@dataclass(frozen=True)
class Behaviour:
    """What a workload does: print, go on for `seconds`, exit; and whether it heeds the stop signal."""

    output: str = ""
    seconds: float = 0.0
    exit_code: int = 0
    heeds_stop: bool = True


class Bed(ABC):
    """A backend on test, with ways to make workloads for it and to let time pass."""

    backend: Backend

    @abstractmethod
    def workload(self, behaviour: Behaviour, *, job: str = "job", attempt: int = 1, replica: int = 0) -> Workload:
        """A workload of `job` that behaves so."""

    def call(self, *, job: str = "job") -> Workload:
        """A workload that is a call: it returns the text "returned"."""
        pytest.skip("its workloads are no calls")

    def beside(self, code: int) -> tuple[str, ...]:
        """A command that writes hello, then what it reads, and ends with the code."""
        return "sh", "-c", 'echo "$0"; cat; exit "$1"', "hello", str(code)

    @abstractmethod
    def until(self, met: Callable[[], object], *, within: float = PATIENCE) -> None:
        """Let time pass until `met()` is true; fail after `within` seconds."""

    @abstractmethod
    def reopen(self) -> None:
        """Put a new backend on the same state in place of the old, as a restarted daemon would."""

    def start(self, behaviour: Behaviour, *, job: str = "job", attempt: int = 1, replica: int = 0) -> Workload:
        workload = self.workload(behaviour, job=job, attempt=attempt, replica=replica)
        self.backend.start(workload)
        return workload

    def finish(self, workload: Workload) -> Observed:
        """Its end."""
        self.until(lambda: self.seen(workload).state.finished)
        return self.seen(workload)

    def running(self, workload: Workload) -> None:
        """Let time pass until it runs and has printed what it prints."""
        self.until(lambda: self.seen(workload).state is WorkloadState.RUNNING)

    def seen(self, workload: Workload) -> Observed:
        observed = self.backend.get(workload.name)
        assert observed is not None
        return observed

    def log(self, workload: Workload, tail: int | None = None) -> bytes:
        return b"".join(self.backend.logs(workload.job_uid, workload.attempt, workload.replica, tail=tail))


class BackendConformance:
    """A subclass provides the fixture `bed`."""

    def test_runs_to_its_end(self, bed: Bed) -> None:
        end = bed.finish(work := bed.start(Behaviour(output="hello\n")))
        assert (end.state, end.exit_code, end.reason) == (WorkloadState.SUCCEEDED, 0, "")
        assert (end.name, end.job_uid, end.namespace, end.job) == (work.name, work.job_uid, work.namespace, work.job)
        assert (end.attempt, end.replica, end.node) == (work.attempt, work.replica, work.node)
        assert "" < end.started_at <= end.finished_at

    def test_failure_carries_its_exit_code(self, bed: Bed) -> None:
        end = bed.finish(bed.start(Behaviour(exit_code=7)))
        assert (end.state, end.exit_code, end.reason) == (WorkloadState.FAILED, 7, "Error")

    def test_starting_a_running_one_again_changes_nothing(self, bed: Bed) -> None:
        work = bed.start(Behaviour(output="once\n", seconds=30))
        bed.running(work)
        before = bed.seen(work)
        bed.backend.start(work)
        assert bed.seen(work) == before
        bed.backend.stop(work.name, 0)
        bed.finish(work)
        assert bed.log(work) == b"once\n"

    def test_a_finished_one_is_never_started_again(self, bed: Bed) -> None:
        work = bed.start(Behaviour(output="once\n"))
        end = bed.finish(work)
        bed.backend.start(work)
        assert bed.seen(work) == end
        assert bed.log(work) == b"once\n"

    def test_a_removed_one_is_never_started_again(self, bed: Bed) -> None:
        bed.finish(work := bed.start(Behaviour(output="once\n")))
        bed.backend.remove(work.name)
        bed.backend.start(work)
        assert bed.backend.get(work.name) is None
        assert bed.log(work) == b"once\n"

    def test_a_purged_one_is_never_started_again(self, bed: Bed) -> None:
        bed.finish(work := bed.start(Behaviour()))
        bed.backend.purge(work.job_uid)
        bed.backend.start(work)
        assert bed.backend.get(work.name) is None
        assert list(bed.backend.list()) == []

    def test_unknown_names_are_harmless(self, bed: Bed) -> None:
        assert bed.backend.get("default.none.0-a1-r0") is None
        bed.backend.stop("default.none.0-a1-r0", 1)
        bed.backend.remove("default.none.0-a1-r0")
        bed.backend.purge("no-such-uid")
        assert list(bed.backend.list()) == []

    def test_stop_is_heeded(self, bed: Bed) -> None:
        bed.running(work := bed.start(Behaviour(seconds=60)))
        bed.backend.stop(work.name, 30)
        end = bed.finish(work)
        assert (end.state, end.exit_code, end.reason) == (WorkloadState.FAILED, 143, "Stopped")

    def test_stop_kills_after_the_grace(self, bed: Bed) -> None:
        bed.running(work := bed.start(Behaviour(seconds=60, heeds_stop=False)))
        bed.backend.stop(work.name, 0.3)
        assert not bed.seen(work).state.finished
        end = bed.finish(work)
        assert (end.state, end.exit_code, end.reason) == (WorkloadState.FAILED, 137, "Stopped")

    def test_a_second_stop_can_only_hurry(self, bed: Bed) -> None:
        bed.running(work := bed.start(Behaviour(seconds=60, heeds_stop=False)))
        bed.backend.stop(work.name, 50)
        bed.backend.stop(work.name, 0.2)
        bed.backend.stop(work.name, 50)
        assert bed.finish(work).exit_code == 137

    def test_stop_of_a_finished_one_changes_nothing(self, bed: Bed) -> None:
        end = bed.finish(work := bed.start(Behaviour()))
        bed.backend.stop(work.name, 0)
        assert bed.seen(work) == end

    def test_a_running_one_is_neither_removed_nor_purged(self, bed: Bed) -> None:
        bed.running(work := bed.start(Behaviour(seconds=60)))
        with pytest.raises(BackendError):
            bed.backend.remove(work.name)
        with pytest.raises(BackendError):
            bed.backend.purge(work.job_uid)
        assert bed.seen(work).state is WorkloadState.RUNNING
        bed.backend.stop(work.name, 0)
        bed.finish(work)

    def test_remove_and_purge_may_be_asked_again(self, bed: Bed) -> None:
        bed.finish(work := bed.start(Behaviour()))
        for _ in range(2):
            bed.backend.remove(work.name)
        for _ in range(2):
            bed.backend.purge(work.job_uid)

    def test_list_tells_of_all_that_were_not_removed(self, bed: Bed) -> None:
        works = [bed.start(Behaviour(), job=f"job{n}", replica=r) for n in range(2) for r in range(2)]
        for work in works:
            bed.finish(work)
        bed.backend.remove(works[0].name)
        assert {o.name for o in bed.backend.list()} == {w.name for w in works[1:]}
        assert {o.name for o in bed.backend.list(works[0].job_uid)} == {works[1].name}
        assert {o.name for o in bed.backend.list(works[2].job_uid)} == {w.name for w in works[2:]}
        assert not bed.backend.list("nobody")

    def test_a_restarted_daemon_finds_everything(self, bed: Bed) -> None:
        bed.finish(done := bed.start(Behaviour(exit_code=3, output="x\n"), attempt=1))
        bed.running(live := bed.start(Behaviour(seconds=60), attempt=2))
        before = {o.name: o for o in bed.backend.list()}
        bed.reopen()
        assert {o.name: o for o in bed.backend.list()} == before
        bed.backend.stop(live.name, 0)
        assert bed.finish(live).reason == "Stopped"
        assert bed.log(done) == b"x\n"

    def test_logs_are_kept_apart_and_tailed(self, bed: Bed) -> None:
        first = bed.start(Behaviour(output="a\nb\nc\n"), attempt=1)
        second = bed.start(Behaviour(output="d\n"), attempt=2)
        bed.finish(first)
        bed.finish(second)
        assert bed.log(first) == b"a\nb\nc\n"
        assert bed.log(second) == b"d\n"
        assert bed.log(first, tail=2) == b"b\nc\n"
        assert bed.log(first, tail=9) == b"a\nb\nc\n"
        assert bed.log(first, tail=0) == b""

    def test_what_a_call_left_is_given_until_it_is_removed(self, bed: Bed) -> None:
        bed.backend.start(work := bed.call())
        bed.finish(work)
        for _ in range(2):
            left = bed.backend.result(work.job_uid, work.attempt, work.replica)
            assert left is not None
            content = b"".join(left.content)
            assert b"returned" in content
            assert (left.outcome.outcome, left.outcome.result_size) == ("Returned", len(content))
            assert left.outcome.result == hashlib.sha256(content).hexdigest()
            bed.reopen()
        bed.backend.remove(work.name)
        with contextlib.suppress(BackendError):
            assert bed.backend.result(work.job_uid, work.attempt, work.replica) is None

    def test_a_workload_that_is_no_call_left_nothing(self, bed: Bed) -> None:
        bed.finish(work := bed.start(Behaviour()))
        assert bed.backend.result(work.job_uid, work.attempt, work.replica) is None
        with pytest.raises(SessionEnded):
            bed.backend.reach(work.job_uid, work.attempt, work.replica).session()

    def test_programs_run_beside_a_running_one(self, bed: Bed) -> None:
        bed.running(work := bed.start(Behaviour(seconds=60)))
        made = [
            bed.backend.reach(work.job_uid, 1, 0).exec(ExecRequest(bed.beside(code), stdin=stdin))
            for code, stdin in ((0, False), (7, True))
        ]
        os.write(made[1].stdin, b"input\n")
        made[1].close_stdin()
        assert [ended(each) for each in made] == [(0, b"hello\n"), (7, b"hello\ninput\n")]
        assert bed.seen(work).state is WorkloadState.RUNNING
        bed.backend.stop(work.name, 0)
        bed.finish(work)

    def test_nothing_runs_beside_what_does_not_run(self, bed: Bed) -> None:
        with pytest.raises((NotRunning, BackendError)):
            bed.backend.reach("nobody", 1, 0).exec(ExecRequest(bed.beside(0)))
        bed.finish(work := bed.start(Behaviour()))
        with pytest.raises(NotRunning):
            bed.backend.reach(work.job_uid, 1, 0).exec(ExecRequest(bed.beside(0)))

    def test_subscribers_hear_of_the_start_and_of_the_end(self, bed: Bed) -> None:
        heard: list[tuple[str, str]] = []
        bed.backend.subscribe(lambda namespace, job: heard.append((namespace, job)))
        bed.running(work := bed.start(Behaviour(seconds=60), job="told"))
        bed.until(lambda: heard)
        assert set(heard) == {(work.namespace, "told")}
        heard.clear()
        bed.backend.stop(work.name, 0)
        bed.until(lambda: heard and bed.seen(work).state.finished)


def ended(made: Execution) -> tuple[int | None, bytes]:
    """How a program that was started beside a workload ends, and what it has written."""
    assert select.select([made.done], [], [], 30)[0]
    code = made.exit().code
    os.set_blocking(made.stdout, True)
    written = b"".join(iter(lambda: os.read(made.stdout, 65536), b""))
    made.close()
    return code, written
