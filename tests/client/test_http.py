"""What a network adds: servers that restart, go away, are older, or are none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cumulus.answers.logs import LogBytes
from cumulus.answers.objects import ConditionMet, StillWaiting
from cumulus.client.endpoint import Endpoint
from cumulus.client.http.client import HttpClient
from cumulus.client.http.connection import ClientConnection
from cumulus.client.http.errors import ServerUnavailable, error_of
from cumulus.clock import FakeClock
from cumulus.errors import CumulusError, Expired, Forbidden, NotFound
from cumulus.lib import unix_socket
from cumulus.resources.key import API_VERSION, Key
from cumulus.resources.query import Query, Watch
from cumulus.service.identity import Identity
from cumulus.store.memory import MemoryStore
from tests.documents import NOW, job, node, running
from tests.server.http.conftest import serving
from tests.service.conftest import ME, FakeInfrastructure
from tests.waiting import PATIENCE

TRAIN = Key("GPUJob", "default", "train")
OURS = b'{"kind": "Status", "message": "x", "details": {"error": {%b}}}'
KINDS = frozenset({"GPUJob"})


class _Kept(MemoryStore):
    """A server closes its store; this one outlives it, as a file does."""

    def close(self) -> None:
        pass


class Server:
    """One that can be stopped and started on the same socket and store."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "api.sock"
        self.home = directory / "home"
        self.home.mkdir(mode=0o700)
        self.store = _Kept(FakeClock(NOW))
        self.outside = FakeInfrastructure()
        self.asks = ME
        self._running = ExitStack()

    def start(self) -> None:
        listening = self._running.enter_context(unix_socket.listen(str(self.path)))
        self._running.enter_context(
            serving(listening, self.store, self.home, FakeClock(NOW), self.outside, lambda: self.asks)
        )

    def stop(self) -> None:
        # First, as the daemon does: nobody comes to a server that is about to end.
        self.path.unlink(missing_ok=True)
        self._running.close()
        self._running = ExitStack()

    @contextmanager
    def client(self, retry_seconds: float = 20) -> Iterator[HttpClient]:
        endpoint = Endpoint("unix", str(self.path))
        with HttpClient(endpoint, connection=ClientConnection(endpoint, retry_seconds=retry_seconds)) as client:
            yield client


def to_the_end(watch: Watch) -> None:
    while not watch.closed:
        watch.next(timeout=PATIENCE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    yield made
    made.stop()


def test_a_watch_goes_on_after_a_restart(server: Server) -> None:
    with server.client() as client:
        watch = client.watch(since=0, kinds=KINDS)
        server.store.create(job("before"))
        assert [event.key.name for event in watch.next(timeout=PATIENCE)] == ["before"]
        server.stop()
        server.store.create(job("between"))
        server.start()
        server.store.create(job("after"))
        seen: list[str] = []
        while len(seen) < 2:
            seen += [event.key.name for event in watch.next(timeout=PATIENCE)]
        assert seen == ["between", "after"]
        watch.close()


def test_a_wait_goes_on_after_a_restart(server: Server) -> None:
    made = server.store.create(running("train"))
    with server.client() as client:
        steps = client.wait([TRAIN], "condition=Succeeded", seconds=60)
        assert isinstance(next(steps), StillWaiting)
        server.stop()
        server.start()
        status = {**made["status"], "phase": "Succeeded", "conditions": [{"type": "Succeeded", "status": "True"}]}
        server.store.update_status({**made, "status": status})
        assert next(step for step in steps if isinstance(step, ConditionMet)).key == TRAIN


def test_a_log_that_is_followed_goes_on_after_a_restart(server: Server) -> None:
    server.store.create(running("train"))
    gate, logs = threading.Event(), server.outside.logs
    logs.chunks = {(1, 0): [b"one\n", b"two\n"]}
    logs.ended = lambda attempt: gate.wait(PATIENCE) and None
    with server.client() as client:
        pieces = client.logs(TRAIN, follow=True)
        assert [next(pieces), next(pieces)] == [LogBytes(1, b"one\n"), LogBytes(1, b"two\n")]
        server.stop()
        logs.chunks = {(1, 0): [b"one\ntw", b"o\nthree\n"]}
        gate.set()
        server.start()
        assert b"".join(piece.data for piece in pieces if isinstance(piece, LogBytes)) == b"three\n"


def test_what_was_compacted_meanwhile_is_told(server: Server) -> None:
    with server.client() as client:
        watch = client.watch(since=0, kinds=KINDS)
        server.stop()
        for name in "abc":
            server.store.create(job(name))
        server.store.compact(server.store.revision())
        server.start()
        with pytest.raises(Expired):
            to_the_end(watch)


def test_a_read_waits_for_a_server_that_restarts_and_a_write_is_made_once(server: Server) -> None:
    with server.client() as client:
        client.create(job("train"))
        server.stop()
        again = threading.Timer(0.3, server.start)
        again.start()
        assert client.get(TRAIN)["metadata"]["name"] == "train"
        again.join()
        server.stop()
        server.start()
        assert client.suspend(TRAIN, suspended=True), "a kept connection that is dead is noticed before it is used"


def test_a_server_that_stays_away_is_given_up(server: Server) -> None:
    with server.client(retry_seconds=0.2) as client:
        watch = client.watch(since=0, kinds=KINDS)
        client.revision()
        server.stop()
        with pytest.raises(ServerUnavailable, match="has not answered for"):
            client.revision()
        with pytest.raises(ServerUnavailable, match="has not answered for"):
            to_the_end(watch)


def test_nobody_listens(tmp_path: Path) -> None:
    with (
        HttpClient(Endpoint("unix", str(tmp_path / "none.sock"))) as client,
        pytest.raises(ServerUnavailable, match=r"no daemon answers at .*none\.sock"),
    ):
        client.revision()


def test_a_write_whose_answer_is_lost_is_not_repeated(tmp_path: Path) -> None:
    path, asked = tmp_path / "s.sock", []

    def answer() -> None:
        for _ in range(2):
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(65536))

    with unix_socket.listen(str(path)) as listening:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        endpoint = Endpoint("unix", str(path))
        with HttpClient(endpoint, connection=ClientConnection(endpoint, retry_seconds=0.01)) as client:
            with pytest.raises(ServerUnavailable, match="closed the connection") as caught:
                client.suspend(TRAIN, suspended=True)
            assert caught.value.hint == "see whether it was carried out"
            assert len(asked) == 1
        with unix_socket.connect(str(path)):
            pass
        thread.join()


def test_one_connection_is_kept(server: Server) -> None:
    with server.client() as client:
        client.revision()
        kept = client._connection._kept
        client.server_state()
        with pytest.raises(NotFound):
            client.get(TRAIN)
        assert client._connection._kept is kept


def test_a_watch_that_is_closed_wakes_who_waits(server: Server) -> None:
    with server.client() as client:
        watch = client.watch(since=0, kinds=KINDS)
        threading.Timer(0.1, watch.close).start()
        assert watch.next() == []
        assert watch.closed


def test_a_user_of_one_namespace_watches_and_waits_there_alone(server: Server) -> None:
    binding = {"roleRef": {"kind": "Role", "name": "viewer"}, "subjects": [{"kind": "User", "name": "ada"}]}
    metadata = {"name": "ada", "namespace": "lab"}
    server.store.create({"apiVersion": API_VERSION, "kind": "RoleBinding", "metadata": metadata, **binding})
    server.asks = Identity("ada", 4711)
    with server.client() as client:
        with pytest.raises(Forbidden):
            client.watch(since=0, kinds=KINDS).next(timeout=PATIENCE)
        with pytest.raises(Forbidden):
            client.list(Query("GPUJob"))
        watch = client.watch(since=server.store.revision(), kinds=KINDS, namespace="lab")
        server.store.create(job("theirs"))
        server.store.create(job("mine", namespace="lab"))
        assert [event.key.name for event in watch.next(timeout=PATIENCE)] == ["mine"]
        watch.close()
        (met,) = client.wait([Key("GPUJob", "lab", "mine")], "create", seconds=10)
        assert isinstance(met, ConditionMet)


def test_several_kinds_come_in_one_order(server: Server) -> None:
    with server.client() as client:
        watch = client.watch(since=0, kinds=frozenset({"GPUJob", "GPUNode"}))
        for document in (job("a"), node("n"), job("b")):
            server.store.create(document)
        seen: list[str] = []
        while len(seen) < 3:
            seen += [event.key.name for event in watch.next(timeout=PATIENCE)]
        assert seen == ["a", "n", "b"]


@pytest.mark.parametrize(
    ("code", "body", "kind", "said"),
    [
        (502, b"<html>bad gateway", CumulusError, "the server answered 502: <html>bad gateway"),
        (500, b"\x1b[31m", CumulusError, r"the server answered 500: \x1b[31m"),
        (403, b'{"kind": "Status", "message": "no", "code": 403}', Forbidden, "no"),
        (404, OURS % b'"@type": "os.system", "message": "gone"', CumulusError, "gone"),
        (404, OURS % b'"@type": "NotFound", "message": "no job", "hint": "look"', NotFound, "no job"),
    ],
)  # fmt: skip
def test_errors_of_others_are_told_too(code: int, body: bytes, kind: type[CumulusError], said: str) -> None:
    error = error_of(code, body)
    assert type(error) is kind
    assert said in str(error)
    assert "\x1b" not in str(error)


def test_what_is_no_http_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"

    def answer() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with unix_socket.listen(str(path)) as listening:
        threading.Thread(target=answer, daemon=True).start()
        endpoint = Endpoint("unix", str(path))
        connection = ClientConnection(endpoint, retry_seconds=0.01)
        with HttpClient(endpoint, connection=connection) as client, pytest.raises(CumulusError):
            client.suspend(TRAIN, suspended=True)
