"""The server as a process of its own: it outlives kill -9 by being started again, and ends with whoever started it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
import structlog

from cumulus import stores
from cumulus.client.embedded import EmbeddedClient
from cumulus.daemon_lock import DaemonLock
from cumulus.lib import unix_socket
from cumulus.resources.query import Query
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.rpc import orchestrator_pb2_grpc as rpc
from cumulus.server.child_process import ChildProcess
from cumulus.server.grpc.launch import Launch
from cumulus.server.grpc_process import grpc_process
from cumulus.server.http.certificates import Authority
from cumulus.service.addresses import grpc_address
from cumulus.service.identity import Identity
from cumulus.service.readiness import grpc_check
from cumulus.store.base import Store
from tests.server.grpc.conftest import code_of
from tests.waiting import PATIENCE, eventually

ME = Identity.of_this_process()


class Beside:
    """A state directory whose daemon this process is, as far as others see."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        self.home = home
        self.lock = DaemonLock(home)
        self.store: Store = stores.open_store(home / "store")
        self.processes: list[ChildProcess] = []
        Authority(home / "api").ensure_server(["localhost", "127.0.0.1"], datetime.now(UTC))

    def start(self, listen: str = "127.0.0.1:0") -> ChildProcess:
        made = grpc_process(Launch(str(self.home), listen), os.environ, restart_seconds=0.01)
        self.processes.append(made)
        made.start()
        eventually(self.answers, what="it answers")
        return made

    def answers(self) -> bool:
        return bool(unix_socket.answers(str(self.home / "grpc.sock")))

    def address(self) -> str:
        found = grpc_address.read(self.home)
        return found.address if found is not None else ""

    def close(self) -> None:
        for process in self.processes:
            process.close()
        for process in self.processes:
            assert process.join(PATIENCE)
        self.store.close()
        self.lock.close()


@pytest.fixture
def beside() -> Iterator[Beside]:
    with tempfile.TemporaryDirectory() as directory:
        made = Beside(Path(directory, "home"))
        yield made
        made.close()


def submit(stub: rpc.OrchestratorStub, key: str, **metadata: str) -> str:
    document = {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": {"generateName": "call-"},
        "spec": {"command": ["true"], "gpu": {"memory": "10%", "duration": "1m"}},
    }  # fmt: skip
    request = pb.SubmitRequest(idempotency_key=key, object=json.dumps(document).encode())
    shown = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
    made = stub.Submit(request, metadata=shown, timeout=PATIENCE, wait_for_ready=True)
    return str(json.loads(made.object)["metadata"]["uid"])


def test_killed_and_started_again_it_makes_one_job(beside: Beside) -> None:
    server = beside.start()
    with EmbeddedClient.of(beside.home) as client:
        ticket = client.grpc_ticket()
    assert ticket.socket == str(beside.home / "grpc.sock")
    uids, pids = set(), set()
    with grpc.insecure_channel(f"unix:{ticket.socket}") as channel:
        stub = rpc.OrchestratorStub(channel)  # type: ignore[no-untyped-call]
        for _ in range(2):
            uids.add(submit(stub, "once", cumulus_ticket=ticket.ticket))
            assert server.pid is not None
            pids.add(server.pid)
            os.kill(server.pid, signal.SIGKILL)
            eventually(lambda: server.pid not in pids and beside.answers(), what="another one answers")
        uids.add(submit(stub, "once", cumulus_ticket=ticket.ticket))
    assert len(uids) == len(beside.store.list(Query("GPUJob")).items) == 1
    assert grpc_check(beside.home).problem == ""
    server.close()
    assert server.join(PATIENCE)
    assert unix_socket.answers(str(beside.home / "grpc.sock")) is None, "a socket that stays says that its server died"
    assert "does not answer" in grpc_check(beside.home).problem


def test_over_tls_by_the_apis_authority(beside: Beside) -> None:
    beside.start()
    eventually(beside.address, what="it listens")
    with EmbeddedClient.of(beside.home) as client:
        ticket = client.grpc_ticket()
        token = client.create_token("t").token
    assert (beside.home / "grpc.sock").stat().st_mode & 0o777 == 0o600
    for trusted, refused in ((ticket.ca, False), (other_authority(), True)):
        credentials = grpc.ssl_channel_credentials(trusted.encode())
        with grpc.secure_channel(ticket.address, credentials) as channel:
            stub = rpc.OrchestratorStub(channel)  # type: ignore[no-untyped-call]
            if refused:
                with pytest.raises(grpc.RpcError) as raised:
                    stub.List(pb.ListRequest(), metadata=(("authorization", f"Bearer {token}"),), timeout=PATIENCE)
                assert code_of(raised.value) is grpc.StatusCode.UNAVAILABLE
                continue
            assert submit(stub, "a", authorization=f"Bearer {token}") == submit(stub, "a", cumulus_ticket=ticket.ticket)
            # One that was renewed is shown to the next who connects.
            Authority(beside.home / "api").server.unlink()
            Authority(beside.home / "api").ensure_server(["localhost", "127.0.0.1", "more"], datetime.now(UTC))
        with grpc.secure_channel(ticket.address, credentials, (("grpc.ssl_target_name_override", "more"),)) as channel:
            submit(rpc.OrchestratorStub(channel), "a", authorization=f"Bearer {token}")  # type: ignore[no-untyped-call]


def test_where_the_port_is_taken_the_socket_alone_answers(beside: Beside) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, structlog.testing.capture_logs() as lines:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        beside.start(listen)
        (warning,) = eventually(lambda: [each for each in lines if each["log_level"] == "warning"], what="it is told")
    assert listen in warning["event"]
    assert "another program has the port" in warning["event"]
    assert "ORCHESTRATOR_PORT" in warning["fix"]
    assert "--grpc-listen" in warning["fix"]
    assert beside.address() == ""


def other_authority() -> str:
    with tempfile.TemporaryDirectory() as directory:
        made = Authority(Path(directory, "other"))
        made.ensure()
        return made.certificate.read_text()


def test_what_the_daemon_says_arrives_as_it_was() -> None:
    launch = Launch("/home", "127.0.0.1:1", ("a", "b"), system=True, mounts=("/data",))
    assert Launch.read(launch.line()) == launch
    assert replace(launch, names=()) == Launch.read(replace(launch, names=()).line())


def test_a_store_that_was_moved_away_is_not_made_anew(beside: Beside) -> None:
    beside.store.revision()
    (beside.home / "store").rename(beside.home / "aside")
    launch = Launch(str(beside.home), "127.0.0.1:0")
    done = subprocess.run(
        [sys.executable, "-m", "cumulus.server.grpc"],
        input=launch.line(),
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert b"there is no store" in done.stderr
    assert not (beside.home / "store").exists()
