"""Processes that leave the cgroup of their lease, and supervisors that their job has stopped."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cumulus.chronos.cgroup_tracker import CgroupTracker
from cumulus.chronos.lease_processes import LeaseProcesses
from cumulus.chronos.ledger import Ledger
from cumulus.chronos.snapshot import ProcessSnapshot
from cumulus.lib import cgroup, processes
from cumulus.lib.processes import ProcessIdentity
from tests.chronos.conftest import SLEEP, request, up
from tests.waiting import PATIENCE, eventually

Run = Callable[..., subprocess.Popen[bytes]]

PARENT = "import os, time; child = os.fork(); print('up', flush=True); time.sleep(60)"
BOMB = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("up", flush=True)
end = time.monotonic() + 20
while time.monotonic() < end:
    if os.fork() == 0:
        time.sleep(0.05)
        os._exit(0)
"""

pytestmark = pytest.mark.skipif(bool(why := cgroup.why_unavailable()[0]), reason=f"cgroups are NOT tested: {why}")


class Node:
    """A lease, and what a test lets look after its cgroup."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.token = ledger.grant(request()).token
        self.said: list[str] = []
        self.enclosures = CgroupTracker(ledger.database, self.said.append)

    def membership(self) -> LeaseProcesses:
        with self.ledger.database.read() as db:
            return LeaseProcesses.load(db, "a")

    def enclosed(self, process: ProcessIdentity) -> str:
        """Attach it; its cgroup."""
        self.ledger.attach("a", process.pid, self.token)
        (directory,) = self.membership().cgroups
        return directory

    def supervised(self, supervisor: ProcessIdentity) -> str:
        """Attach it as a supervisor; the cgroup of its job."""
        self.ledger.attach("a", supervisor.pid, self.token, role="supervisor")
        directory = self.ledger.make_cgroup(["a"], supervisor.pid)
        assert directory is not None
        return directory


@pytest.fixture
def node(ledger: Ledger) -> Node:
    return Node(ledger)


def leave(directory: str, process: ProcessIdentity) -> None:
    assert cgroup.enter(os.path.dirname(directory), process.pid)


def child_of(process: ProcessIdentity) -> ProcessIdentity:
    eventually(lambda: processes.living(processes.children(process.pid)))
    (child,) = processes.living(processes.children(process.pid))
    return child


def test_what_leaves_is_put_back_and_killed_when_it_leaves_again(node: Node, run: Run) -> None:
    program = run(SLEEP)
    process = up(program)
    directory = node.enclosed(process)
    node.enclosures.look()
    leave(directory, process)
    node.enclosures.look()
    assert cgroup.members(directory) == {process.pid}
    leave(directory, process)
    node.enclosures.look()
    assert program.wait(PATIENCE) == -signal.SIGKILL
    node.enclosures.look()
    place = f"{directory}/{process.pid}-{process.start}"
    assert node.said == [
        f"process {process.pid} had left the cgroup of its lease, {place}: it was put back",
        f"process {process.pid} left the cgroup of its lease again, {place}: it is killed",
    ]


def test_an_attached_process_that_leaves_before_it_was_ever_seen_inside_is_put_back(node: Node, run: Run) -> None:
    process = up(run(SLEEP))
    directory = node.enclosed(process)
    leave(directory, process)
    node.enclosures.look()
    assert cgroup.members(directory) == {process.pid}


def test_nobody_but_root_leaves_its_cgroup(node: Node) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can try as another user")
    told, tell = os.pipe()
    heard, say = os.pipe()
    child = os.fork()
    if child == 0:
        above = os.path.dirname(os.read(told, 4096).decode())
        os.setuid(65534)
        os.write(say, b"left" if cgroup.enter(above, os.getpid()) else b"refused")
        os._exit(0)
    proc = processes.read(child)
    assert proc is not None
    os.write(tell, node.enclosed(ProcessIdentity(proc.pid, proc.start)).encode())
    os.waitpid(child, 0)
    assert os.read(heard, 100) == b"refused"
    for descriptor in (told, tell, heard, say):
        os.close(descriptor)


def test_what_its_processes_start_belongs_to_it_too(node: Node, run: Run) -> None:
    """One that left before it was ever seen inside, while its parent is there."""
    process = up(run(PARENT))
    directory = node.enclosed(process)
    child = child_of(process)
    leave(directory, child)
    node.enclosures.look()
    assert cgroup.members(directory) == {process.pid, child.pid}


def test_what_left_and_lost_its_parents_is_still_the_leases(node: Node, run: Run) -> None:
    """Also where the lease ends before it was put back."""
    program = run(PARENT)
    process = up(program)
    child = child_of(process)
    directory = node.enclosed(process)
    leave(directory, child)
    node.enclosures.look()
    leave(directory, child)
    program.kill()
    program.wait()
    lease = node.membership()
    assert child not in lease.members(ProcessSnapshot())
    assert child in node.enclosures.of(lease)


def test_a_supervisors_children_belong_into_its_jobs_cgroup(node: Node, run: Run) -> None:
    """One that is outside for the first time may be about to be put there, or be a fork of the supervisor's own."""
    supervisor = up(run(PARENT))
    directory = node.supervised(supervisor)
    child = child_of(supervisor)
    node.enclosures.look()
    assert cgroup.members(directory) == set()
    node.enclosures.look()
    assert cgroup.members(directory) == {child.pid}


def test_the_cgroup_of_a_program_that_is_over_goes_before_its_lease(node: Node, run: Run) -> None:
    over, lives = run(SLEEP), up(run(SLEEP))
    directory = node.enclosed(up(over))
    node.ledger.attach("a", lives.pid, node.token)
    over.kill()
    over.wait()
    eventually(lambda: node.enclosures.look() or not [*Path(directory).glob(f"{over.pid}-*")])
    assert cgroup.members(directory) == {lives.pid}


@pytest.mark.parametrize("role", ["root", "supervisor"])
def test_a_pid_that_means_another_process_now_makes_no_child_the_leases(node: Node, run: Run, role: str) -> None:
    stranger = up(run(PARENT))
    child = child_of(stranger)
    node.ledger.attach("a", stranger.pid, node.token, role=role)
    node.ledger.make_cgroup(["a"], stranger.pid)
    with node.ledger.database.write() as tx:
        tx.execute("UPDATE process SET start = start - 1")
    (directory,) = node.membership().cgroups
    os.mkdir(f"{directory}/{stranger.pid}-{stranger.start - 1}")
    assert cgroup.enter(os.path.dirname(directory), stranger.pid)
    node.enclosures.look()
    node.enclosures.look()
    assert cgroup.members(directory) == set()
    assert processes.is_alive(child)


def test_a_supervisor_is_not_put_into_the_cgroup(node: Node, run: Run) -> None:
    supervisor = up(run(SLEEP))
    node.supervised(supervisor)
    node.enclosures.look()
    (directory,) = node.membership().cgroups
    assert cgroup.members(directory) == set()
    assert node.membership().members(ProcessSnapshot()) == set()


def test_a_stopped_supervisor_is_continued(node: Node, run: Run) -> None:
    program = run(SLEEP)
    supervisor = up(program)
    node.supervised(supervisor)
    os.kill(supervisor.pid, signal.SIGSTOP)
    eventually(lambda: processes.is_stopped(supervisor))
    node.enclosures.look()
    eventually(lambda: not processes.is_stopped(supervisor))
    assert node.said == [f"lease a: its job's supervisor {supervisor.pid} was stopped, and is continued"]


def test_a_job_of_several_leases_has_one_cgroup_that_ends_with_each(node: Node, run: Run) -> None:
    supervisor = up(run(PARENT))
    other = node.ledger.grant(request("b", device=1))
    node.ledger.attach("b", supervisor.pid, other.token, role="supervisor")
    node.ledger.attach("a", supervisor.pid, node.token, role="supervisor")
    directory = node.ledger.make_cgroup(["a", "b"], supervisor.pid)
    assert directory is not None
    child = child_of(supervisor)
    assert cgroup.enter(directory, child.pid)
    for id in ("a", "b"):
        with node.ledger.database.read() as db:
            lease = LeaseProcesses.load(db, id)
        assert [*map(cgroup.members, lease.cgroups)] == [{child.pid}]
        assert [(process.pid, place) for process, place in lease.placed()] == [(supervisor.pid, directory)]


@pytest.mark.parametrize("kill", [cgroup.kill, cgroup.kill_each])
def test_a_cgroup_is_emptied_though_its_processes_fork_all_the_time(
    node: Node, run: Run, kill: Callable[[str], None]
) -> None:
    """With cgroup.kill, and as on kernels before 5.14 without it."""
    bomb = run(BOMB)
    directory = node.enclosed(up(bomb))
    eventually(lambda: len(cgroup.members(directory)) > 3)
    kill(directory)
    assert bomb.wait(PATIENCE) == -signal.SIGKILL
    eventually(lambda: not cgroup.populated(directory))


def test_what_is_read_from_a_file_is_taken_for_a_cgroup_only_where_it_can_be_one(tmp_path: Path) -> None:
    assert cgroup.is_ours("/sys/fs/cgroup/chronos-1-2-a/3-4")
    for other in ("", "/", "/sys/fs/cgroup", "/x/chronos-a/../..", None, 7):
        assert not cgroup.is_ours(other)


def test_who_may_not_write_cgroups_is_told_why() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can try as another user")
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        os.write(writable, cgroup.why_unavailable()[0].encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writable)
    assert os.read(readable, 1000) == b"cgroup v2 cannot be written"
    os.close(readable)
