"""The node's end of a channel, without an engine."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cumulus.chronos import carrier, container_terminal, job_container
from cumulus.errors import BackendError, NotRunning
from cumulus.lib import processes
from cumulus.lib.run_channel import FULL, STDOUT, Frames
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nodes are Linux")

DEAD = "1-1"


def test_who_takes_what_was_written_last_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "DRAIN_SECONDS", 0.1)
    (near, far), (engine, program) = socket.socketpair(), socket.socketpair()
    with near, far, far.dup() as sink, engine, program:
        frames = Frames(far.fileno(), sink.fileno())
        frames.put(STDOUT, b"a" * 3 * FULL)
        program.sendall(b"b" * 100_000)
        seen = bytearray()

        def take() -> None:
            time.sleep(0.5)
            heard = Frames(near.fileno(), near.fileno())
            while len(seen) < 3 * FULL + 100_000 and select.select([near], [], [], 10)[0]:
                seen.extend(b"".join(frame.data for frame in heard.take()))

        taker = threading.Thread(target=take)
        taker.start()
        carrier.Carrier(frames, engine).drain()
        while frames.waiting and select.select([], [sink], [], 10)[1]:
            frames.flush()
        taker.join()
    assert (seen.count(b"a"), seen.count(b"b")) == (3 * FULL, 100_000)


def test_what_writes_for_ever_is_not_listened_to_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "_DRAIN_MOST", 2**16)
    (near, far), (engine, program) = socket.socketpair(), socket.socketpair()
    with near, far, far.dup() as sink, engine:

        def write() -> None:
            with program:
                try:
                    while True:
                        program.sendall(b"y" * 4096)
                except OSError:
                    pass

        writer = threading.Thread(target=write)
        writer.start()
        carrier.Carrier(Frames(far.fileno(), sink.fileno()), engine).drain()
        engine.close()
        writer.join(PATIENCE)
        assert not writer.is_alive()


def test_a_program_that_holds_the_lock_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_terminal, "_JOIN_SECONDS", 0.1)
    (tmp_path / "pid").touch()
    with open(tmp_path / "pid") as other, open(tmp_path / "pid") as lock:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BackendError, match="nobody can be attached"):
            container_terminal.lock_shared(lock)
        fcntl.flock(other, fcntl.LOCK_SH)
        container_terminal.lock_shared(lock)


def test_an_environment_of_any_size_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process says where its environment lies."""
    assert len(processes.content("/dev/zero", 100_000)) == 100_000
    assert processes.content("/proc/self/stat") != b""
    monkeypatch.setattr(processes, "_LARGEST_ENVIRONMENT", 5)
    assert [len(entry) for entry in processes.environment(os.getpid())] == [5]


def test_a_mark_that_the_jobs_own_program_has_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job may set the variable, or an image."""

    def started(mark: str) -> subprocess.Popen[bytes]:
        made = subprocess.Popen(["sleep", "60"], env={**os.environ, "CUMULUS_EXEC": mark})
        eventually(lambda: processes.name(made.pid) == "sleep")
        return made

    own, left = f"{DEAD}-{'a' * 16}", f"{DEAD}-{'b' * 16}"
    leader, child, abandoned = programs = [started(mark) for mark in (own, own, left)]
    try:
        reached = job_container.JobContainer.__new__(job_container.JobContainer)
        reached.leader = leader.pid
        monkeypatch.setattr(reached, "pids", lambda: {each.pid for each in programs})
        reached.end_abandoned()
        assert abandoned.wait(PATIENCE) == -9
        assert (leader.poll(), child.poll()) == (None, None)
    finally:
        for each in programs:
            each.kill()
            each.wait()


def test_what_ran_in_a_container_that_is_deleted_has_no_exit_code() -> None:
    def forgotten() -> dict[str, object]:
        raise NotRunning("its program has ended")

    assert job_container.exit_code(forgotten) is None
    assert job_container.exit_code(lambda: {"Running": False, "ExitCode": None}) is None
    assert job_container.exit_code(lambda: {"Running": False, "ExitCode": 3}) == 3


def test_a_parent_hears_of_a_signal_before_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a shell whose child has died of it goes on with its next line."""
    program = ["sh", "-c", "sh -c 'sleep 60; :'; :"]
    with subprocess.Popen(program, start_new_session=True) as shell:
        line = [shell.pid]
        for _ in range(2):
            line += eventually(lambda last=line[-1]: processes.children(last))
        told: list[int] = []
        monkeypatch.setattr(processes, "send", lambda who, number: told.append(who.pid))
        members = {processes.ProcessIdentity(proc.pid, proc.start) for pid in line if (proc := processes.read(pid))}
        job_container.send(members, 1)
        os.killpg(shell.pid, 9)
    assert told == line
    assert len(told) == 3


def test_what_is_gone_or_its_own_ancestor_is_told_last() -> None:
    # As a table that was read while numbers were given anew may say.
    assert job_container._depth(2, {2: 3, 3: 2}) == 2
    assert job_container._depth(7, {}) == 0
