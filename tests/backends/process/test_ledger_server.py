"""Supervisors ask one process that has the ledger open, and go to the ledger themselves where it does not answer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest

from cumulus.backends.base import WorkloadState
from cumulus.backends.process import ledger_server
from cumulus.backends.process.lease_guard import LeaseGuard
from cumulus.chronos.contract import LeaseRequest
from cumulus.chronos.home import LEDGER
from cumulus.chronos.ledger import Ledger
from tests.backends.process.test_leases import DEVICES, Node, node, reference
from tests.backends.process.test_spawner import fork_servers
from tests.chronos.conftest import remove_cgroups
from tests.waiting import eventually

__all__ = ["node"]


def servers(node: Node) -> list[int]:
    """Those that were forked from what forks supervisors."""
    found = []
    for parent in fork_servers(node.bed):
        for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError):
                if Path(f"/proc/{pid}/comm").read_text() == "ledger\n":
                    found.append(int(pid))
    return found


def opened(pid: int) -> set[str]:
    return {os.path.basename(os.readlink(each)) for each in Path(f"/proc/{pid}/fd").iterdir()}


def test_one_process_has_the_ledger_open_and_ends_with_what_forked_it(node: Node) -> None:
    for number in range(2):
        work, end = node.bed.run("true", leases=(node.lease(f"lease-{number}"),), job=f"job-{number}")
        assert end.state is WorkloadState.SUCCEEDED, end
        assert (node.bed.run_directory(work) / "supervisor.log").read_text() == ""
    (server,) = servers(node)
    assert LEDGER in opened(server)
    node.bed.reopen()
    eventually(lambda: not Path(f"/proc/{server}").exists())


def test_a_supervisor_has_no_ledger_open_and_its_program_cannot_ask(node: Node) -> None:
    script = ": > ready; ls -l /proc/self/fd; exec sleep 1000"
    node.bed.backend.start(work := node.bed.work("sh", "-c", script, leases=(node.lease(),)))
    node.bed.running(work)
    assert LEDGER not in opened(node.bed.supervisor(work))
    node.bed.until(lambda: b"total" in node.bed.log(work))
    assert b"socket" not in node.bed.log(work)
    node.bed.backend.stop(work.name, 0)
    node.bed.finish(work)


def test_one_that_was_killed_is_missed_by_nobody_and_started_again(node: Node) -> None:
    script = ": > ready; while [ ! -e go ]; do sleep 0.05; done; exit 3"
    node.bed.backend.start(work := node.bed.work("sh", "-c", script, leases=(node.lease(),)))
    node.bed.running(work)
    (first,) = servers(node)
    os.kill(first, signal.SIGKILL)
    (node.bed.run_directory(work) / "work" / "go").touch()
    assert node.bed.finish(work).exit_code == 3
    _, end = node.bed.run("true", leases=(node.lease("lease-2"),), job="other")
    assert end.state is WorkloadState.SUCCEEDED, end
    assert servers(node) not in ([], [first])


class TestNoAnswer:
    @pytest.fixture
    def channel(self) -> tuple[socket.socket, socket.socket]:
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def test_a_guard_that_is_not_answered_asks_the_ledger(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: tuple[socket.socket, socket.socket]
    ) -> None:
        """It is stopped, say."""
        monkeypatch.setattr(ledger_server, "PATIENCE_SECONDS", 0.01)
        self._is_held(tmp_path, channel[0])

    def test_nor_where_nobody_is_there(self, tmp_path: Path, channel: tuple[socket.socket, socket.socket]) -> None:
        channel[1].close()
        self._is_held(tmp_path, channel[0])

    @staticmethod
    def _is_held(tmp_path: Path, channel: socket.socket) -> None:
        ledger = Ledger(tmp_path / "chronos", discover=lambda: DEVICES, start_monitor=False)
        lease = reference(ledger.grant(LeaseRequest("lease-1", 0, 1 << 20, 250, 60.0, start_within=600.0)))
        spec = {
            "leases": [{"id": lease.id, "token": lease.token, "seconds": 60.0}], "env": {},
            "chronos_home": str(ledger.home),
        }  # fmt: skip
        guard = LeaseGuard(spec, server=ledger_server.LedgerClient(channel))
        hold = guard.attach(os.getpid())
        assert "CHRONOS_ACCOUNT" in hold.variables
        guard.begin()
        guard.wait_begun()
        begun = ledger.get(lease.id)
        assert begun is not None
        assert begun.expires_in <= 60
        ledger.detach(lease.id, os.getpid())
        ledger.release(lease.id)
        assert guard.ended() == "released"
        ledger.close()
        remove_cgroups(ledger.home)
