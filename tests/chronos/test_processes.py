"""Processes from /proc, against real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from cumulus.chronos.contract.variables import PARTITION_ID
from cumulus.chronos.home import LEDGER
from cumulus.chronos.snapshot import ProcessSnapshot, leases_of
from cumulus.lib import processes
from cumulus.lib.processes import ProcessIdentity
from tests.chronos.conftest import SLEEP, up
from tests.waiting import PATIENCE, eventually

Run = Callable[..., subprocess.Popen[bytes]]


def test_read_knows_parent_session_and_start() -> None:
    proc = processes.read(os.getpid())
    assert proc is not None
    assert (proc.parent, proc.session, proc.alive) == (os.getppid(), os.getsid(0), True)
    ticks = os.sysconf("SC_CLK_TCK")
    assert 0 < time.clock_gettime(time.CLOCK_BOOTTIME) - proc.start / ticks < 3600


def test_a_name_with_parentheses_does_not_confuse(run: Run) -> None:
    process = run("open('/proc/self/comm', 'w').write(') Z 1 ('); " + SLEEP)
    assert up(process).pid == process.pid
    proc = processes.read(process.pid)
    assert proc is not None
    assert (proc.parent, proc.alive) == (os.getpid(), True)


def test_a_process_that_is_gone_is_none(run: Run) -> None:
    process = run("")
    process.wait()
    assert processes.read(process.pid) is None


def test_a_zombie_is_not_alive_but_one_whose_threads_run_is(run: Run) -> None:
    zombie = run("")
    eventually(lambda: (proc := processes.read(zombie.pid)) is not None and not proc.alive)
    threaded = run(
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print('up', flush=True)\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    identity = up(threaded)
    eventually(lambda: Path(f"/proc/{threaded.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    assert processes.is_alive(identity)


def test_a_signal_does_not_hit_a_later_process_of_the_same_pid(run: Run) -> None:
    process = run(SLEEP)
    identity = up(process)
    assert processes.send(identity._replace(start=identity.start - 1), signal.SIGKILL) is False
    assert process.poll() is None
    assert processes.send(identity, signal.SIGKILL) is True
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert processes.send(identity, signal.SIGKILL) is False


def test_a_snapshot_knows_descendants_and_sessions(run: Run) -> None:
    process = run(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    os.fork()\n"
        "    print('up', flush=True)\n"
        "time.sleep(60)"
    )
    parent = up(process)
    up(process)
    snapshot = ProcessSnapshot()
    below = snapshot.below(parent.pid)
    assert len(below) == 2
    leader = next(pid for pid in below if snapshot.procs[pid].session == pid)
    identity = ProcessIdentity(leader, snapshot.procs[leader].start)
    assert snapshot.in_session(identity) == below
    assert snapshot.in_session(identity._replace(start=identity.start - 1)) == set()
    assert snapshot.has(parent)
    assert not snapshot.has(parent._replace(start=parent.start - 1))


def test_a_marker_is_one_whole_name_of_the_list(run: Run) -> None:
    first = up(run(SLEEP, **{PARTITION_ID: "a,b"}))
    second = up(run(SLEEP, **{"A": "1", "X" + PARTITION_ID: "a", PARTITION_ID: "ab"}))
    third = up(run(SLEEP, NOTHING=f"{PARTITION_ID}=a"))
    snapshot = ProcessSnapshot()
    assert first.pid in snapshot.marked("a")
    assert first.pid in snapshot.marked("b")
    assert second.pid in snapshot.marked("ab")
    assert not {second.pid, third.pid} & snapshot.marked("a")
    assert leases_of(first.pid) == ["a", "b"]
    assert leases_of(third.pid) == []


def test_a_marker_of_another_ledger_is_none_of_ours(run: Run, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for home in (ours, theirs):
        home.mkdir()
        (home / LEDGER).touch()
    (tmp_path / "alias").symlink_to(ours)
    mine = {
        up(run(SLEEP, **{PARTITION_ID: "a", **home})).pid
        for home in (
            {"CHRONOS_HOME": ""},
            {"CHRONOS_HOME": f"{tmp_path}/alias"},
            {"CHRONOS_HOME": f"{tmp_path}/no-ledger"},
        )
    }
    other = up(run(SLEEP, **{PARTITION_ID: "a", "CHRONOS_HOME": str(theirs)})).pid
    assert mine <= ProcessSnapshot(home=ours).marked("a")
    assert other not in ProcessSnapshot(home=ours).marked("a")
    assert other in ProcessSnapshot(home=theirs).marked("a")
