"""The server of leases that a connection keeps on its worker, and what becomes of requests when it goes away."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cumulus.clock import FakeClock
from cumulus.errors import NodeUnreachable
from cumulus.lib.backoff import Backoff
from cumulus.nodes.connection import NodeConnection, Waits
from cumulus.nodes.host_keys import KnownHosts, fetch
from cumulus.nodes.leases import RemoteLeases
from tests.nodes.conftest import Worker, answers, connect
from tests.nodes.test_leases import request
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.ssh


def servers(worker: Worker) -> list[int]:
    """Processes below the worker's sshd that serve leases."""
    found = []
    for pid in worker.sessions():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:4] == [b"-m", b"cumulus.chronos", b"serve"]:
            found.append(pid)
    return found


def test_one_server_answers_all_requests_of_a_connection(worker: Worker, leases: RemoteLeases) -> None:
    leases.devices()
    [server] = servers(worker)
    with ThreadPoolExecutor(8) as pool:
        granted = list(pool.map(lambda _: leases.grant(request(memory_bytes=2**20, compute=1)), range(16)))
    assert len({lease.token for lease in granted}) == 16
    assert {lease.id for lease in leases.list()} == {lease.id for lease in granted}
    assert servers(worker) == [server]
    assert (worker.directory / "sshd.log").read_text().count("Starting session") == 1


def test_the_server_ends_with_its_connection(worker: Worker, leases: RemoteLeases) -> None:
    leases.devices()
    assert servers(worker)
    leases.close()
    eventually(lambda: not servers(worker))


def test_a_server_that_was_killed_is_replaced_within_the_same_call(worker: Worker, leases: RemoteLeases) -> None:
    leases.devices()
    held = leases.grant(request())
    [server] = servers(worker)
    os.kill(server, signal.SIGKILL)
    assert [lease.id for lease in leases.list()] == [held.id]
    [another] = servers(worker)
    assert another != server
    assert (worker.directory / "sshd.log").read_text().count("Accepted publickey") == 1


def test_requests_under_way_when_the_server_is_killed_are_asked_again(worker: Worker, leases: RemoteLeases) -> None:
    leases.devices()
    [server] = servers(worker)
    os.kill(server, signal.SIGSTOP)
    asked = [request(memory_bytes=2**20, compute=1) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(leases.grant, each) for each in asked]
        time.sleep(0.3)
        os.kill(server, signal.SIGKILL)
        granted = [answer.result(PATIENCE) for answer in answers]
    assert [lease.id for lease in granted] == [each.id for each in asked]
    assert len(leases.list()) == 4


def test_a_server_that_hangs_is_left_at_the_deadline(worker: Worker, known_hosts: KnownHosts) -> None:
    known_hosts.add(worker.address, fetch(worker.address, 5))
    leases = connect(worker, known_hosts, waits=Waits(reconnect=Backoff(0.05, 0.2)))
    leases.devices()
    [server] = servers(worker)
    os.kill(server, signal.SIGSTOP)
    with pytest.raises(NodeUnreachable, match="did not answer in time"):
        leases.connection.call(f"{worker.command} serve --json", ("list", "--json"), 1)
    try:
        eventually(lambda: answers(leases))
        assert server not in servers(worker)[-1:]
    finally:
        os.kill(server, signal.SIGKILL)
        leases.close()


def test_an_older_chronos_is_asked_by_commands_and_by_a_server_once_it_has_one(
    worker: Worker, leases: RemoteLeases, tmp_path: Path
) -> None:
    upgraded = tmp_path / "upgraded"
    command = f'pick() {{ [ "$1" != serve ] || [ -e {upgraded} ] || exit 2; {worker.command} "$@"; }}; pick'
    older = connect(worker, leases.connection.known_hosts, command)
    older.devices()
    held = older.grant(request())
    assert servers(worker) == []
    upgraded.touch()
    eventually(lambda: older.list() and servers(worker))
    assert [lease.id for lease in older.list()] == [held.id]
    older.close()


def test_a_server_that_does_not_come_up_is_started_again_soon_and_later_seldom(
    worker: Worker, leases: RemoteLeases, tmp_path: Path
) -> None:
    healthy, tries = tmp_path / "healthy", tmp_path / "tries"
    begin = f'[ "$1" != serve ] || [ -e {healthy} ] || {{ echo >> {tries}; exit 2; }}'
    clock = FakeClock()
    there = NodeConnection(
        "gpu-1", worker.address, leases.connection.known_hosts, clock=clock, key_path=worker.key_path
    )
    ill = RemoteLeases(there, f'pick() {{ {begin}; {worker.command} "$@"; }}; pick')

    def tried_after(seconds: float) -> int:
        clock.advance(seconds)
        assert ill.list() == []
        return len(tries.read_text().splitlines())

    assert [tried_after(seconds) for seconds in (0, 0.9, 0.1, 1.9, 0.1, 3.9, 0.1)] == [1, 1, 2, 2, 3, 3, 4]
    assert [tried_after(60) for _ in range(5)] == [5, 6, 7, 8, 9]
    healthy.touch()
    assert tried_after(60) == 9
    [server] = servers(worker)
    healthy.unlink()
    os.kill(server, signal.SIGKILL)
    assert [tried_after(seconds) for seconds in (0, 0.9, 0.1)] == [10, 10, 11]
    ill.close()
