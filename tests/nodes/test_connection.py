"""What goes wrong on the way: each kind of silence is NodeUnreachable, in bounded time, and passes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos.contract import LeaseState
from cumulus.clock import SystemClock
from cumulus.errors import CumulusError, NodeUnreachable
from cumulus.lib.backoff import Backoff
from cumulus.nodes.address import WorkerHost
from cumulus.nodes.connection import NodeBusy, NodeConnection, Waits
from cumulus.nodes.host_keys import KnownHosts, fetch
from cumulus.nodes.leases import RemoteLeases
from cumulus.nodes.session import Ended, LeaseServerSession
from cumulus.nodes.sockets import open_socket
from tests.nodes.conftest import PATIENT, Worker, connect
from tests.nodes.test_leases import request
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.ssh


SOON = replace(PATIENT, reconnect=Backoff(0.05, 0.2))
"""Nobody waits long between attempts."""


@pytest.fixture
def waits() -> Waits:
    """The connection's. A test has others by its parameter `waits`."""
    return SOON


@pytest.fixture
def connection(worker: Worker, known_hosts: KnownHosts, waits: Waits) -> Iterator[NodeConnection]:
    known_hosts.add(worker.address, fetch(worker.address, 5))
    connection = NodeConnection("gpu-1", worker.address, known_hosts, key_path=worker.key_path, waits=waits)
    yield connection
    connection.close()


def test_one_connection_serves_all_calls(worker: Worker, connection: NodeConnection) -> None:
    for _ in range(5):
        assert connection.run("echo hello", PATIENCE).output == "hello\n"
    assert (worker.directory / "sshd.log").read_text().count("Accepted publickey") == 1


def test_input_output_and_status_come_whole(connection: NodeConnection) -> None:
    data = os.urandom(3_000_000).hex().encode()
    answer = connection.run("cat; echo oops >&2; exit 3", 20, input=data)
    assert (answer.output.encode(), answer.errors, answer.status) == (data, "oops\n", 3)


@pytest.mark.parametrize("waits", [replace(SOON, turn=30)], ids=["30 s"])
def test_many_calls_at_once_take_turns(connection: NodeConnection) -> None:
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: connection.run(f"sleep 0.05; echo {n}", 20).output, range(24)))
    assert answers == [f"{n}\n" for n in range(24)]


@pytest.mark.parametrize("waits", [replace(SOON, turn=0.2)], ids=["0.2 s"])
def test_a_slow_node_does_not_keep_all_threads(connection: NodeConnection, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    connection.run("true", PATIENCE)
    with ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(connection.run, f"until [ -e {gate} ]; do sleep 0.1; done", PATIENCE) for _ in range(4)]
        eventually(lambda: connection._turns._value == 0)
        with pytest.raises(NodeBusy, match="has not yet answered"):
            connection.run("true", PATIENCE)
        gate.touch()
        assert [each.result().status for each in slow] == [0] * 4
    assert connection.run("true", PATIENCE).status == 0


def test_a_command_that_hangs_is_left_at_the_deadline(connection: NodeConnection) -> None:
    with pytest.raises(NodeUnreachable, match="did not answer in time"):
        connection.run("sleep 600", 0.5)
    eventually(lambda: says_hello(connection))


def test_one_that_hangs_takes_no_other_down(worker: Worker, connection: NodeConnection) -> None:
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(connection.run, "sleep 5; echo done", PATIENCE)
        hangs = pool.submit(connection.run, "sleep 600", 1.5)
        connection.run("true", PATIENCE)
        with pytest.raises(NodeUnreachable, match="did not answer in time"):
            hangs.result()
        assert long.result().output == "done\n"
    assert (worker.directory / "sshd.log").read_text().count("Accepted publickey") == 1


def test_a_frozen_server_is_left_at_the_deadline(worker: Worker, connection: NodeConnection) -> None:
    """The kernel goes on acknowledging: only the deadline helps, also where paramiko has none of its own."""
    connection.run("true", PATIENCE)
    pids = worker.sessions()
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(NodeUnreachable):
            connection.run("true", 1)
    finally:
        for pid in pids:
            # A session of which two processes were told may be gone with the first that goes on.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_restarted_server_is_found_again_within_the_same_call(worker: Worker, connection: NodeConnection) -> None:
    connection.run("true", PATIENCE)
    worker.stop()
    worker.start()
    assert connection.run("echo hello", PATIENCE).output == "hello\n"


def test_what_must_run_once_is_not_run_again(worker: Worker, connection: NodeConnection, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with ThreadPoolExecutor(1) as pool:
        connection.run("true", PATIENCE)
        answer = pool.submit(connection.run, f"echo x >> {mark}; sleep 30", 20, again=False)
        eventually(mark.exists)
        worker.stop()
        worker.start()
        with pytest.raises(NodeUnreachable):
            answer.result(PATIENCE)
    assert mark.read_text() == "x\n"


def test_a_server_that_is_gone_fails_at_once_and_is_not_hammered(
    worker: Worker, connection: NodeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.run("true", PATIENCE)
    worker.stop()
    with pytest.raises(NodeUnreachable, match="cannot be reached"):
        connection.run("true", PATIENCE)
    tried: list[float] = []

    def counted(*asked: Any) -> socket.socket:
        tried.append(time.monotonic())
        return open_socket(*asked)

    monkeypatch.setattr("cumulus.nodes.connection.open_socket", counted)
    begun = time.monotonic()
    for _ in range(100):
        with pytest.raises(NodeUnreachable):
            connection.run("true", PATIENCE)
    assert len(tried) <= 2 + (time.monotonic() - begun) / SOON.reconnect.first
    worker.start()
    eventually(lambda: says_hello(connection))


def test_a_host_that_never_speaks_ssh_is_left(known_hosts: KnownHosts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = WorkerHost("127.0.0.1", "root", mute.getsockname()[1])
        known_hosts.own.write_text(
            f"{address.known_as} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3m2p0ZQ4m1nJQ8l6bTn3mJ1d8o3m0Qy2b1kS3o7x9v\n"
        )
        with pytest.raises(NodeUnreachable):
            NodeConnection("mute", address, known_hosts, waits=Waits(connect=1.0)).run("true", PATIENCE)


def test_closing_ends_calls_that_wait(connection: NodeConnection) -> None:
    connection.run("true", PATIENCE)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(connection.run, "sleep 30", 60)
        threading.Event().wait(0.3)
        connection.close()
        with pytest.raises(NodeUnreachable):
            answer.result(PATIENCE)
    with pytest.raises(NodeUnreachable):
        connection.run("true", 5)


def test_a_key_that_does_not_fit_is_refused_with_the_way_out(
    worker: Worker, known_hosts: KnownHosts, tmp_path: Path
) -> None:
    import subprocess

    known_hosts.add(worker.address, fetch(worker.address, 5))
    wrong = tmp_path / "wrong"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", wrong], check=True)
    with pytest.raises(NodeUnreachable, match="no key fits") as refused:
        NodeConnection("gpu-1", worker.address, known_hosts, key_path=str(wrong), waits=SOON).run("true", 5)
    assert refused.value.hint is not None
    assert "authorized_keys" in refused.value.hint


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_from_a_secret_lets_in(
    worker: Worker,
    known_hosts: KnownHosts,
    client_key: Path,
    kind: str,
    tmp_path: Path,
) -> None:
    import subprocess

    known_hosts.add(worker.address, fetch(worker.address, 5))
    mine = tmp_path / "mine"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", mine], check=True)
    config = worker.directory / "sshd_config"
    config.write_text(config.read_text().replace(f"{client_key}.pub", f"{mine}.pub"))
    worker.stop()
    worker.start()
    secret = mine.read_text().strip()  # as SecretStore gives it: without the newline at its end
    connection = NodeConnection("gpu-1", worker.address, known_hosts, lambda: secret, waits=SOON)
    assert connection.run("echo hello", PATIENCE).output == "hello\n"
    connection.close()


def says_hello(connection: NodeConnection) -> bool:
    try:
        return connection.run("echo hello", PATIENCE).output == "hello\n"
    except NodeUnreachable:
        return False


def test_a_secret_that_is_no_key_is_not_shown(worker: Worker, known_hosts: KnownHosts) -> None:
    known_hosts.add(worker.address, fetch(worker.address, 5))
    with pytest.raises(CumulusError) as refused:
        NodeConnection("gpu-1", worker.address, known_hosts, lambda: "hunter2", waits=SOON).run("true", 5)
    assert "hunter2" not in f"{refused.value} {refused.value.hint}"


@pytest.mark.parametrize(
    "killed",
    [
        'kill_it() {{ [ "$1" != serve ] || exit 2; {} "$@" >/dev/null; kill -9 $$; }}; kill_it',
        'kill_it() {{ {} "$@" | {{ read -r line; echo "$line"; read -r line; kill -9 $$; }}; }}; kill_it',
    ],
    ids=["one by one", "served"],
)
def test_a_command_killed_midway_can_be_asked_again(worker: Worker, leases: RemoteLeases, killed: str) -> None:
    """chronos_cli is killed when it has granted and not yet answered: the same id gives the same lease."""
    leases.devices()
    broken = connect(worker, leases.connection.known_hosts, killed.format(worker.command))
    asked = request()
    with pytest.raises(NodeUnreachable, match="ended before it answered"):
        broken.grant(asked)
    granted = leases.get(asked.id)
    assert granted is not None
    again = leases.grant(asked)
    assert (again.token, again.state) == (granted.token, LeaseState.ACTIVE)
    assert len(leases.list()) == 1


def test_a_session_whose_channel_is_closed_is_over_for_the_caller_too() -> None:
    """Its listener may hear of it later: who asks again must not get the same session."""

    class Closed:
        """A channel that fails to send while its reader still waits."""

        def __init__(self) -> None:
            self.told = threading.Event()

        def recv(self, size: int) -> bytes:
            self.told.wait()
            return b""

        def sendall(self, data: bytes) -> None:
            raise OSError("Socket is closed")

        def close(self) -> None:
            self.told.set()

    session = LeaseServerSession(channel := Closed(), SystemClock())  # type: ignore[arg-type]
    with pytest.raises(Ended):
        session.call(("list",), SystemClock().monotonic() + 60)
    assert session.ended
    channel.close()


def test_silent_connections_are_ended_by_the_kernel() -> None:
    """What makes keep-alives find out that the other side is gone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = open_socket(WorkerHost("127.0.0.1", "me", server.getsockname()[1]), 5)
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12000
        made.close()
