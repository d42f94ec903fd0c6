"""The API of a state directory: who is known by the socket, and which daemon listens."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulus.lib import unix_socket
from cumulus.server.api_server import ApiServer
from cumulus.service.accounts import Accounts
from cumulus.service.addresses import NO_GRPC, grpc_address
from cumulus.store.memory import MemoryStore
from tests.waiting import PATIENCE


@pytest.fixture
def home() -> Iterator[Path]:
    """In a directory that everybody may enter."""
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory, "home")
        made.mkdir(mode=0o700)
        yield made


@pytest.fixture
def server(home: Path) -> Iterator[ApiServer]:
    made = ApiServer(home, MemoryStore(), retry_seconds=0.02)
    made.start()
    assert made.listens.wait(PATIENCE)
    yield made
    made.close()


def ask(home: Path, request: bytes = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") -> bytes:
    with unix_socket.connect(str(home / "api.sock"), PATIENCE) as connection:
        connection.sendall(request)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


def test_its_user_is_answered_and_the_socket_is_theirs_alone(home: Path, server: ApiServer) -> None:
    assert ask(home).startswith(b"HTTP/1.1 200")
    assert grpc_address.read(home) == NO_GRPC, "it has none beside it, and says so"
    assert (home / "api.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="NOT TESTED: needs root, to be another user")
def test_another_user_does_not_get_in(home: Path, server: ApiServer) -> None:
    # As far as the directories go, they could.
    home.chmod(0o755)
    home.parent.chmod(0o755)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(12345)
            os.setuid(12345)
            socket.socket(socket.AF_UNIX).connect(str(home / "api.sock"))
        except PermissionError:
            code = 77
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 77


def test_the_next_daemon_listens_once_the_first_has_ended(home: Path) -> None:
    """Records locks are a process's, so the first is one of its own; it is killed, and leaves its socket."""
    script = (
        "import sys, threading; from pathlib import Path\n"
        "from cumulus import log; log.silence()\n"
        "from cumulus.server.api_server import ApiServer; from cumulus.store.memory import MemoryStore\n"
        "made = ApiServer(Path(sys.argv[1]), MemoryStore()); made.start(); made.listens.wait()\n"
        "print('listens', flush=True); threading.Event().wait()"
    )
    first = subprocess.Popen([sys.executable, "-c", script, str(home)], stdout=subprocess.PIPE)
    second = ApiServer(home, MemoryStore(), retry_seconds=0.02)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"listens\n"
        second.start()
        assert not second.listens.wait(0.2)
        first.kill()
        first.wait()
        assert second.listens.wait(PATIENCE)
        assert ask(home).startswith(b"HTTP/1.1 200")
    finally:
        first.kill()
        first.wait()
        second.close()
    assert unix_socket.answers(str(home / "api.sock")) is None, "a socket that stays says that its daemon died"


def test_headers_that_never_end_are_refused(home: Path, server: ApiServer) -> None:
    assert b" 431 " in ask(home, b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000)


def test_a_half_closed_connection_goes(home: Path, server: ApiServer) -> None:
    with unix_socket.connect(str(home / "api.sock"), PATIENCE) as connection:
        connection.sendall(b"GET / HT")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""


def test_accounts() -> None:
    now = [0.0]
    accounts = Accounts(lambda: now[0])
    assert accounts.known(0) is None
    assert accounts.of_uid(0).name == "root"
    assert accounts.known(0) is not None
    now[0] = 31.0
    assert accounts.known(0) is None
    assert accounts.of_uid(54321).name == "54321"
    assert accounts.of_name("no such user") is None
