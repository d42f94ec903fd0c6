"""The terminal of a process job's own program: who is attached, what they see, and when it is hung up."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.backends.base import Workload, WorkloadState
from cumulus.backends.process.console import ALONE_SECONDS, Console
from cumulus.lib.execution import Execution
from tests.backends.process.test_execs import read
from tests.backends.process_bed import ProcessBed
from tests.waiting import eventually


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[ProcessBed]:
    made = ProcessBed(tmp_path)
    yield made
    made.close()


def started(bed: ProcessBed, script: str) -> Workload:
    bed.backend.start(work := bed.work("sh", "-c", f": > ready; {script}", terminal=True))
    bed.running(work)
    return work


def attach(bed: ProcessBed, work: Workload, *, stdin: bool = True) -> Execution:
    return bed.backend.reach(work.job_uid, work.attempt, work.replica).attach(stdin=stdin)


def done(made: Execution) -> int | None:
    assert select.select([made.done], [], [], 30)[0]
    code = made.exit().code
    made.close()
    return code


def test_who_attaches_sees_what_was_missed_and_types(bed: ProcessBed) -> None:
    work = started(bed, "tty; stty size; echo begun; read line; echo got $line; stty size; read line; exit 5")
    eventually(lambda: b"begun" in bed.log(work))
    # Nobody has said yet how large theirs is.
    assert b"\n24 80\r\n" in bed.log(work)
    made = attach(bed, work)
    assert b"/dev/pts/" in read(made, b"begun")
    made.resize(91, 33)
    os.write(made.stdin, b"typed\n")
    assert b"got typed" in read(made, b"33 91")
    os.write(made.stdin, b"\n")
    assert done(made) == 5
    assert bed.finish(work).exit_code == 5
    # The log has it all.
    assert b"begun\r\n" in bed.log(work)
    assert b"got typed" in bed.log(work)


def test_two_see_the_same_and_ctrl_c_goes_to_the_program(bed: ProcessBed) -> None:
    work = started(bed, "trap 'echo INT; exit 3' INT; echo begun; while :; do sleep 0.1; done")
    looking, typing = attach(bed, work, stdin=False), attach(bed, work)
    read(looking, b"begun")
    os.write(typing.stdin, b"\x03")
    assert b"INT" in read(looking, b"INT")
    assert (done(looking), done(typing)) == (3, 3)


def test_much_is_shown_no_faster_than_it_is_read(bed: ProcessBed) -> None:
    count = "i=0; while [ $i -lt 20000 ]; do echo $i-----------------------------; i=$((i+1)); done"
    work = started(bed, f"read line; {count}")
    made = attach(bed, work)
    os.write(made.stdin, b"\n")
    time.sleep(1)
    assert bed.seen(work).state is WorkloadState.RUNNING
    seen = read(made, b"19999-")
    assert seen.count(b"---\r\n") >= 19999
    assert done(made) == 0


def test_who_leaves_comes_back_and_detaching_is_told(bed: ProcessBed) -> None:
    work = started(bed, "while read line; do echo got $line; done; exit 4")
    first = attach(bed, work)
    os.write(first.stdin, b"a\n")
    read(first, b"got a")
    first.close()
    second = attach(bed, work)
    os.write(second.stdin, b"b\n\x10")
    read(second, b"got b")
    os.write(second.stdin, b"\x11")
    assert done(second) == 0
    assert bed.seen(work).state is WorkloadState.RUNNING
    third = attach(bed, work)
    os.write(third.stdin, b"\x04")
    assert done(third) == 4


def test_it_stops_as_others_do(bed: ProcessBed) -> None:
    work = started(bed, "sleep 300")
    made = attach(bed, work)
    bed.backend.stop(work.name, 20)
    assert bed.finish(work).reason == "Stopped"
    assert done(made) == 143


def test_a_job_without_a_terminal_has_none(bed: ProcessBed) -> None:
    bed.backend.start(work := bed.work("sh", "-c", ": > ready; exec sleep 300"))
    bed.running(work)
    made = attach(bed, work)
    assert select.select([made.done], [], [], 30)[0]
    assert "no terminal" in made.exit().message
    made.close()


@pytest.mark.parametrize("detached", [False, True])
def test_it_is_hung_up_where_nobody_is_attached(tmp_path: Path, detached: bool) -> None:
    import _socket
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", f"trap 'echo > {tmp_path}/hup; exit' HUP; echo up; while :; do sleep 0.1; done"])
    try:
        os.set_blocking(terminal, False)
        console, poll = Console(terminal, pid), select.poll()
        poll.register(terminal, select.POLLIN)
        console.watch(poll)
        eventually(lambda: select.select([terminal], [], [], 0)[0])
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        (keyboard, typing), (seeing, screen) = os.pipe(), os.pipe()
        assert console.next_look is not None
        console.join(theirs, keyboard, screen)
        console.look(time.monotonic() + ALONE_SECONDS + 1)
        assert console.next_look is None
        if detached:
            os.write(typing, b"\x10\x11")
            assert console.handle(keyboard)
        else:
            ours.close()
            assert console.handle(theirs.fileno())
        console.look(time.monotonic() + ALONE_SECONDS - 5)
        time.sleep(0.3)
        assert not (tmp_path / "hup").exists()
        console.look(time.monotonic() + ALONE_SECONDS + 1)
        if detached:
            time.sleep(0.3)
            assert not (tmp_path / "hup").exists()
        else:
            eventually((tmp_path / "hup").exists)
        for descriptor in (typing, seeing):
            os.close(descriptor)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)
