"""Programs beside a process job: where they run, and how they end."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.backends.base import Workload, WorkloadState
from cumulus.backends.process import execution
from cumulus.errors import NotRunning
from cumulus.lib.execution import ExecRequest, Execution
from tests.backends.conformance import ended
from tests.backends.process_bed import ProcessBed, job_processes
from tests.waiting import eventually


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[ProcessBed]:
    made = ProcessBed(tmp_path)
    yield made
    made.close()


@pytest.fixture
def work(bed: ProcessBed) -> Workload:
    bed.backend.start(made := bed.work("sh", "-c", ": > ready; exec sleep 300", env=()))
    bed.running(made)
    return made


def start(bed: ProcessBed, work: Workload, script: str, *, stdin: bool = False, terminal: str = "") -> Execution:
    asked = ExecRequest(("sh", "-c", script), stdin, terminal, 100, 40)
    return bed.backend.reach(work.job_uid, work.attempt, work.replica).exec(asked)


def read(made: Execution, wanted: bytes) -> bytes:
    """What it has written by the time that this is in it."""
    seen = b""
    while wanted not in seen:
        assert select.select([made.stdout], [], [], 30)[0], seen
        seen += os.read(made.stdout, 65536)
    return seen


def test_directory_environment_limits_and_group(bed: ProcessBed, work: Workload) -> None:
    script = (
        'pwd; echo "$CUMULUS_JOB $PYTHONUNBUFFERED ${TERM-none}"; ulimit -n; umask; ps -o pgid= -o sid= $$; echo $$'
    )
    code, written = ended(start(bed, work, script))
    directory, variables, files, mask, groups, pid = written.decode().splitlines()
    assert (code, directory) == (0, str(bed.run_directory(work) / "work"))
    assert (variables, files, mask) == (
        "job 1 none",
        str(min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
        "0022",
    )
    assert groups.split() == [pid, pid]


def test_streams_are_apart_and_input_is_empty_unless_asked_for(bed: ProcessBed, work: Workload) -> None:
    made = start(bed, work, "cat; echo out; echo err >&2; exit 3")
    assert select.select([made.done], [], [], 30)[0]
    assert (made.exit().code, os.read(made.stdout, 99), os.read(made.stderr, 99)) == (3, b"out\n", b"err\n")
    made.close()


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [(("no-such",), 127, "not found: no-such"), (("/etc/passwd",), 126, "not executable"), (("/",), 126, "executable")],
)
def test_what_cannot_be_started_says_why(
    bed: ProcessBed, work: Workload, command: tuple[str, ...], code: int, words: str
) -> None:
    made = bed.backend.reach(work.job_uid, 1, 0).exec(ExecRequest(command))
    assert select.select([made.done], [], [], 30)[0]
    end = made.exit()
    assert end.code == code
    assert words in end.message
    made.close()


def test_a_signal_ends_it_as_a_shell_counts(bed: ProcessBed, work: Workload) -> None:
    assert ended(start(bed, work, "kill -9 $$"))[0] == 137


def test_who_lets_go_hangs_it_up_and_nothing_is_left(bed: ProcessBed, work: Workload, tmp_path: Path) -> None:
    # The shell says on stderr what has ended its child, where nobody reads, and would end by that.
    kept = f"trap 'echo HUP > {tmp_path}/told' HUP; sleep 400 & setsid sleep 401 & echo up; exec 2>/dev/null; "
    made = start(bed, work, f"{kept} while :; do sleep 0.1; done")
    read(made, b"up")
    before = len(job_processes(bed.directory))
    assert before >= 4
    made.close()
    eventually((tmp_path / "told").exists)
    eventually(lambda: len(job_processes(bed.directory)) == 1, what="only the job's own program is left")
    assert bed.seen(work).state is WorkloadState.RUNNING


def test_what_it_started_ends_with_it(bed: ProcessBed, work: Workload) -> None:
    code, written = ended(start(bed, work, "sleep 400 >/dev/null 2>&1 & setsid sleep 401 >/dev/null 2>&1 & echo $!"))
    assert code == 0
    assert written.strip().isdigit()
    eventually(lambda: len(job_processes(bed.directory)) == 1)


def test_it_ends_with_the_job_and_does_not_hold_it_up(bed: ProcessBed, work: Workload) -> None:
    made = start(bed, work, "trap '' HUP TERM; echo up; while :; do sleep 0.1; done")
    read(made, b"up")
    bed.backend.stop(work.name, 60)
    assert bed.finish(work).reason == "Stopped"
    assert select.select([made.done], [], [], 30)[0]
    assert made.exit().code in (None, 137)
    made.close()
    eventually(lambda: not job_processes(bed.directory))
    with pytest.raises(NotRunning):
        start(bed, work, "true")


def test_it_ends_with_a_job_that_ends_by_itself(bed: ProcessBed) -> None:
    bed.backend.start(work := bed.work("sh", "-c", ": > ready; until [ -e end ]; do sleep 0.05; done; exit 4"))
    bed.running(work)
    made = start(bed, work, "echo up; exec sleep 300")
    read(made, b"up")
    (bed.run_directory(work) / "work" / "end").touch()
    assert bed.finish(work).exit_code == 4
    assert select.select([made.done], [], [], 30)[0]
    made.close()
    eventually(lambda: not job_processes(bed.directory))


def test_a_terminal(bed: ProcessBed, work: Workload) -> None:
    made = start(
        bed, work, 'tty; stty size; echo "$TERM"; trap "echo INT" INT; cat; echo end', stdin=True, terminal="vt100"
    )
    seen = read(made, b"vt100").decode().splitlines()
    assert seen[0].startswith("/dev/pts/")
    assert seen[1:3] == ["40 100", "vt100"]
    made.resize(90, 30)
    os.write(made.stdin, b"typed\n")
    read(made, b"typed\r\ntyped")
    os.write(made.stdin, b"\x03")
    assert b"INT" in read(made, b"end")
    assert select.select([made.done], [], [], 30)[0]
    assert made.exit().code == 0
    made.close()


def test_the_end_of_input_reaches_a_terminal(bed: ProcessBed, work: Workload) -> None:
    made = start(bed, work, "cat; echo end", stdin=True, terminal="xterm")
    os.write(made.stdin, b"a\n")
    read(made, b"a\r\na\r\n")
    made.close_stdin()
    read(made, b"end")
    made.close()


def test_a_dead_supervisor_leaves_nothing_of_it(bed: ProcessBed, work: Workload) -> None:
    made = start(bed, work, "trap '' HUP TERM; echo up; while :; do sleep 0.1; done")
    read(made, b"up")
    os.kill(bed.supervisor(work), signal.SIGKILL)
    assert select.select([made.done], [], [], 30)[0]
    assert made.exit().code is None
    made.close()
    bed.finish(work)
    eventually(lambda: not job_processes(bed.directory))


def test_sizes_that_nobody_takes_keep_nobody_waiting() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made = execution._Attached(near, -1, -1, -1, terminal=False)
    with far:
        for columns in range(1, 5000):
            made.resize(columns, 40)
        assert far.recv(99) == b"[1, 40]"
    made.close()
