"""Supervisors come from one process that forks, and come all the same where that one fails."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.backends.base import EnvVar, WorkloadState
from cumulus.backends.process import layout, spare_supervisor
from cumulus.backends.process.spawner import Spawned, Spawner
from cumulus.lib import processes
from tests.backends.process_bed import ProcessBed, processes_of
from tests.waiting import eventually


def fork_servers(bed: ProcessBed) -> list[int]:
    """Those that are this process's children: supervisors were forked from them."""
    found = [processes.read(pid) for pid in processes_of(bed.root.parent)]
    return [
        each.pid
        for each in found
        if each is not None and each.parent == os.getpid()
        and b"fork_server.py" in Path(f"/proc/{each.pid}/cmdline").read_bytes()
    ]  # fmt: skip


def spare(bed: ProcessBed) -> tuple[int, int]:
    """The supervisor that waits for the next run, and what becomes its program; waits for them."""

    def found() -> tuple[int, int] | None:
        for pid in (each for server in fork_servers(bed) for each in processes.children(server)):
            if processes.name(pid) == spare_supervisor.NAME and (below := processes.children(pid)):
                return pid, below[0]
        return None

    pid, child = eventually(found, what="a supervisor waits for the next run")
    return pid, child


def gone(*pids: int) -> bool:
    return all(map(processes.is_gone, pids))


def ended(spawned: Spawned) -> bool:
    return bool(select.select([spawned.descriptor], [], [], 0)[0])


@pytest.fixture
def spawner(bed: ProcessBed) -> Iterator[Spawner]:
    made = Spawner(str(bed.root))
    yield made
    made.close()


def test_a_supervisor_is_in_a_session_of_its_own_with_its_own_environment(
    bed: ProcessBed, spawner: Spawner, tmp_path: Path
) -> None:
    bed.backend.start(work := bed.work("sh", "-c", ": > ready; sleep 60"))
    bed.running(work)
    supervisor, (server,) = bed.supervisor(work), fork_servers(bed)
    assert os.getsid(supervisor) == supervisor != os.getsid(server) == server
    assert Path(f"/proc/{supervisor}/comm").read_text() == "supervisor\n"
    names = {os.readlink(each) for each in Path(f"/proc/{supervisor}/fd").iterdir()}
    assert os.readlink(f"/proc/{server}/fd/0") not in names
    signals = dict(line.split(":\t") for line in Path(f"/proc/{supervisor}/status").read_text().splitlines())
    assert int(signals["SigBlk"], 16) == 0
    bed.backend.stop(work.name, 0)
    bed.finish(work)


def test_one_process_forks_them_all_and_ends_with_the_backend(bed: ProcessBed) -> None:
    works = [bed.work("sh", "-c", ": > ready; sleep 60", job=f"job-{number}") for number in range(3)]
    for work in works:
        bed.backend.start(work)
        bed.running(work)
    (server,) = fork_servers(bed)
    assert {processes.read(bed.supervisor(work)).parent for work in works} == {server}  # type: ignore[union-attr]
    pids = [bed.supervisor(work) for work in works]
    bed.reopen()
    assert not Path(f"/proc/{server}").exists()
    assert [bed.supervisor(work) for work in works] == pids
    for work in works:
        bed.backend.stop(work.name, 0)
        assert bed.finish(work).reason == "Stopped"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_was_killed_or_stopped_is_replaced(bed: ProcessBed, number: int) -> None:
    # The patience is as in earnest: that for one that is stopped is the same as for one that starts, which takes
    # seconds on a busy machine.
    assert bed.run("true", job="before")[1].state is WorkloadState.SUCCEEDED
    (server,) = fork_servers(bed)
    os.kill(server, number)
    assert bed.run("true", job="after")[1].state is WorkloadState.SUCCEEDED
    assert server not in fork_servers(bed)


def test_without_it_each_supervisor_is_started_by_itself(bed: ProcessBed) -> None:
    bed.spawner = Spawner(str(bed.root), server="/no/such/fork_server.py")
    bed.reopen()
    assert bed.run("true")[1].state is WorkloadState.SUCCEEDED
    assert fork_servers(bed) == []


def test_supervisors_that_have_ended_leave_nothing(spawner: Spawner, tmp_path: Path) -> None:
    runs = [tmp_path / f"run-{number}" for number in range(8)]
    for run in runs:
        run.mkdir()  # There is no run in it, so they end at once.
    made: list[Spawned] = []
    threads = [threading.Thread(target=lambda r=run: made.append(spawner.spawn(str(r), {}))) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.pid for each in made}) == 8
    eventually(lambda: all(map(ended, made)))
    eventually(lambda: not any(Path(f"/proc/{each.pid}").exists() for each in made))
    for each in made:
        os.close(each.descriptor)
    assert [(run / layout.SUPERVISOR_LOG).read_text() for run in runs] == [""] * 8


def test_what_is_too_large_for_a_message_starts_too(spawner: Spawner, tmp_path: Path) -> None:
    environment = {f"NAME_{number}": "x" * 1000 for number in range(400)}
    assert len(json.dumps(environment)) > 2**18
    spawned = spawner.spawn(str(tmp_path), environment)
    eventually(lambda: ended(spawned))
    os.waitpid(spawned.pid, 0)
    os.close(spawned.descriptor)


class TestSpare:
    """The supervisor that is there before its run."""

    def test_the_next_run_is_in_it_and_in_nothing_of_the_run_before(self, bed: ProcessBed) -> None:
        assert bed.run("true", job="before")[1].state is WorkloadState.SUCCEEDED
        pid, child = spare(bed)
        bed.backend.start(work := bed.work("sh", "-c", ": > ready; echo $$; env; ls /proc/self/fd; exec sleep 60"))
        bed.running(work)
        assert bed.supervisor(work) == pid
        assert processes.name(pid) == "supervisor"
        assert os.getsid(pid) == pid
        assert os.getpgid(child) == child
        bed.until(lambda: bed.log(work).endswith(b"\n3\n"))
        log = bed.log(work).decode().splitlines()
        # The fourth is that of the directory, which `ls` opened.
        assert (log[0], log[-4:]) == (str(child), ["0", "1", "2", "3"])
        assert not any("before" in line for line in log)
        assert (bed.run_directory(work) / layout.SUPERVISOR_LOG).read_text() == ""
        bed.backend.stop(work.name, 0)
        assert bed.finish(work).reason == "Stopped"

    def test_one_that_was_killed_is_not_missed(self, bed: ProcessBed) -> None:
        bed.run("true", job="before")
        for which in (0, 1):
            killed = spare(bed)[which]
            os.kill(killed, signal.SIGKILL)
            _, end = bed.run("sh", "-c", "exit 3", job=f"after-{which}")
            assert (end.exit_code, end.reason) == (3, "Error")

    def test_it_ends_with_what_forked_it(self, bed: ProcessBed) -> None:
        bed.run("true")
        both = spare(bed)
        (server,) = fork_servers(bed)
        os.kill(server, signal.SIGKILL)
        eventually(lambda: gone(*both))

    def test_what_is_more_than_it_is_handed_at_once_runs_all_the_same(self, bed: ProcessBed) -> None:
        bed.run("true", job="before")
        pid, _ = spare(bed)
        many = tuple(EnvVar(f"NAME_{number}", "x" * 1000) for number in range(200))
        bed.backend.start(work := bed.work("sh", "-c", ": > ready; echo $NAME_199; exec sleep 60", env=many))
        bed.running(work)
        assert bed.supervisor(work) == pid
        bed.until(lambda: bed.log(work) == b"x" * 1000 + b"\n")
        bed.backend.stop(work.name, 0)
        bed.finish(work)

    def test_one_whose_run_does_not_start_leaves_nothing(self, bed: ProcessBed) -> None:
        bed.run("true", job="before")
        pid, child = spare(bed)
        _, end = bed.run("true", working_dir="/no/such/directory")
        assert end.reason == "StartError"
        eventually(lambda: gone(pid, child))
