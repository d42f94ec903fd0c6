"""`pods/exec` over a WebSocket: our client, kubectl, who may, and nonsense."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cumulus.client.endpoint import Endpoint
from cumulus.client.http.client import HttpClient
from cumulus.client.programs import Streams
from cumulus.errors import BackendError, Forbidden, NotFound, NotRunning, UsageError
from cumulus.lib import websocket
from cumulus.lib.execution import ExecRequest
from cumulus.resources.key import Key
from cumulus.resources.submitter import SUBMITTER, SUBMITTER_UID
from cumulus.server import api
from cumulus.server.http import app
from cumulus.server.http.kubernetes.core.spdy_ports import PROTOCOL as SPDY
from cumulus.service.access.access import ADMIN_GROUP
from cumulus.service.identity import Identity
from tests.documents import job, running
from tests.server.http.conftest import Served, serving
from tests.server.http.kubectl import KUBECTL, MISSING, Kubectl
from tests.server.http.test_spdy import Client as SpdyClient
from tests.service.test_access import binding
from tests.waiting import PATIENCE, eventually

TRAIN = Key("GPUJob", "default", "train")
ANN, BOB = Identity("ann", 1001), Identity("bob", 1002)
EXEC = "/api/v1/namespaces/default/pods/train-0/exec"


def by(who: Identity, document: dict[str, Any]) -> dict[str, Any]:
    document["metadata"]["annotations"] = {SUBMITTER: who.name, SUBMITTER_UID: str(who.uid)}
    return document


@pytest.fixture
def train(served: Served) -> Served:
    served.store.create(by(ANN, running("train", replicas=2)))
    served.store.create(by(ANN, job("waits")))
    return served


@contextmanager
def client(served: Served) -> Iterator[HttpClient]:
    with HttpClient(Endpoint("unix", str(served.path))) as made:
        yield made


def ran(served: Served, *words: str, replica: int = 0, given: bytes | None = None) -> tuple[int, bytes]:
    """Exit code and output of a program beside the job."""
    written: list[bytes] = []
    read, write = os.pipe()
    try:
        feeding = threading.Thread(target=lambda: (os.write(write, given or b""), os.close(write)))
        feeding.start()
        with client(served) as asked:
            program = asked.exec(TRAIN, replica, ExecRequest(words, stdin=given is not None))
            with closing(program):
                stdin = read if given is not None else None
                code = program.run(Streams(written.append, written.append, stdin))
        feeding.join()
        return code, b"".join(written)
    finally:
        os.close(read)


def test_output_input_and_exit_code(train: Served) -> None:
    assert ran(train, "hello", "7") == (7, b"hello\n")
    assert ran(train, "hello", replica=1, given=b"input") == (0, b"hello\ninput")
    large = os.urandom(3_000_000)
    assert ran(train, "large", given=large) == (0, b"large\n" + large)
    names = [each[:4] for each in train.outside.executions]
    assert names == [("train", 1, 0, "gpu-1"), ("train", 1, 1, "gpu-1"), ("train", 1, 0, "gpu-1")]


def test_what_cannot_be(train: Served) -> None:
    asked = ExecRequest(("true",))
    with client(train) as asking:
        for key, replica, error in (
            (Key("GPUJob", "default", "waits"), 0, NotRunning), (Key("GPUJob", "default", "none"), 0, NotFound),
            (TRAIN, 2, UsageError),
        ):  # fmt: skip
            with pytest.raises(error):
                asking.exec(key, replica, asked)
        for command in ((), ("",), ("a\0b",)):
            with pytest.raises(UsageError):
                asking.exec(TRAIN, 0, ExecRequest(command))
        with pytest.raises(UsageError):
            asking.exec(TRAIN, 0, ExecRequest(("true",), terminal="x\ny"))
    assert not train.outside.executions


@pytest.mark.parametrize(
    ("who", "role", "where", "may"),
    [
        (ANN, "user", "default", True), (ANN, "viewer", "default", False), (ANN, "", "", False),
        (BOB, "user", "default", False), (BOB, "admin", "default", False), (BOB, "admin", "", True),
        (Identity("carl", 1003, (ADMIN_GROUP,)), "", "", True), (Identity("root", 0), "", "", True),
        # Of the same name, and not the same user.
        (Identity("ann", 1009), "user", "default", False), (Identity("ann", None), "user", "default", False),
    ],
)  # fmt: skip
def test_who_may(train: Served, who: Identity, role: str, where: str, may: bool) -> None:
    if role:
        train.store.create(binding(role, "User", who.name, where))
    train.asks = who
    if may:
        assert ran(train, "hello") == (0, b"hello\n")
        return
    with pytest.raises(Forbidden):
        ran(train, "hello")
    assert not train.outside.executions


def test_nobody_but_root_and_its_owner_enters_what_runs_as_the_daemon(served: Served) -> None:
    for name, who in (("train", Identity("root", 0)), ("older", None)):
        document = running(name)
        served.store.create(by(who, document) if who else document)
    served.asks = Identity("carl", 1003, (ADMIN_GROUP,))
    with client(served) as asked:
        for name in ("train", "older"):
            with pytest.raises(Forbidden, match="enter"):
                asked.exec(Key("GPUJob", "default", name), 0, ExecRequest(("id",)))


def test_what_is_no_websocket(train: Served) -> None:
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec_websocket_version": "13"}
    key = {"sec_websocket_key": websocket.new_key()}
    protocol = {"sec_websocket_protocol": "v5.channel.k8s.io"}
    url = f"{EXEC}?command=true"
    for headers, code, word in (
        ({}, 400, "WebSocket"), ({"connection": "Upgrade", "upgrade": "SPDY/3.1"}, 400, "SPDY"),
        ({**upgrade, **protocol}, 400, "Key"), ({**upgrade, **key}, 400, "subprotocols"),
        ({**upgrade, **key, "sec_websocket_protocol": "channel.k8s.io"}, 400, "subprotocols"),
        ({**upgrade, **key, **protocol, "sec_websocket_version": "8"}, 400, "version 13"),
        ({**upgrade, **key, **protocol, "origin": "https://evil.example"}, 403, "origin"),
    ):  # fmt: skip
        answer = train.ask("GET", url, **headers)
        assert (answer.code, answer.json["kind"]) == (code, "Status"), (headers, answer)
        assert word in answer.json["message"], answer
    assert train.ask("POST", url, b"").code == 400
    assert not train.outside.executions
    assert "text/html" not in str(train.ask("GET", url).headers)


@pytest.mark.skipif(KUBECTL is None, reason=MISSING)
def test_kubectl(train: Served, tmp_path: Path) -> None:
    home = tmp_path / "kubectl"
    home.mkdir()
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        serving(listening, train.store, home, train.clock, train.outside, lambda: train.asks),
    ):
        kubectl = Kubectl(f"http://127.0.0.1:{listening.getsockname()[1]}", home)
        assert kubectl("exec", "train-0", "--", "hello") == "hello\n"
        assert kubectl("exec", "-i", "train-1", "--", "hello", given="input") == "hello\ninput"
        assert kubectl.fails_with(7, "exec", "train-0", "--", "hello", "7") == "hello\n"
        train.outside.begin = unreached
        assert "cannot be reached" in kubectl.fails("exec", "train-0", "--", "hello")
        train.asks = BOB
        assert "forbidden" in kubectl.fails("exec", "train-0", "--", "hello").lower()


def unreached(*_: object) -> Any:
    raise BackendError("its node cannot be reached")


def test_what_refused_a_websocket_is_told_where_spdy_is_asked_for_next(train: Served) -> None:
    """As kubectl does, which tells what is wrong with that alone."""
    train.outside.begin = unreached
    spdy = {"connection": "Upgrade", "upgrade": "SPDY/3.1"}
    url = f"{EXEC}?command=true"
    with asking(train, url) as made:
        assert b"cannot be reached" in b"".join(iter(lambda: made.recv(9999), b""))
    assert "SPDY" in train.ask("GET", url.replace("train-0", "train-1"), **spdy).json["message"]
    with asking(train, url) as made:
        assert b"cannot be reached" in b"".join(iter(lambda: made.recv(9999), b""))
    assert "cannot be reached" in train.ask("GET", url, **spdy).json["message"]
    assert "SPDY" in train.ask("GET", url, **spdy).json["message"]


def test_ports(train: Served) -> None:
    with client(train) as asked:
        near, far = socket.socketpair()
        carrying = threading.Thread(target=lambda: asked.forward(TRAIN, 0, 8888, far))
        carrying.start()
        with near:
            near.sendall(data := os.urandom(200_000))
            near.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: near.recv(65536), b"")) == data
        carrying.join(PATIENCE)
        assert not carrying.is_alive()
        for who, port, error in ((ANN, 8889, NotRunning), (ANN, 70000, UsageError), (BOB, 8888, Forbidden)):
            train.asks = who if error is Forbidden else train.asks
            with far, pytest.raises(error):
                asked.forward(TRAIN, 0, port, far)


CHANNELS_OF_KUBECTL = "v4.channel.k8s.io, v5.channel.k8s.io"
PORTFORWARD = f"{EXEC.removesuffix('exec')}portforward"


def asking(served: Served, path: str, protocols: str = CHANNELS_OF_KUBECTL) -> socket.socket:
    """A WebSocket that was asked for."""
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(20)
    made.connect(str(served.path))
    made.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Key: {websocket.new_key()}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {protocols}\r\n\r\n".encode()
    )
    return made


def raw(
    served: Served, path: str = f"{EXEC}?command=cat&stdin=true", protocols: str = CHANNELS_OF_KUBECTL
) -> socket.socket:
    """A WebSocket that was accepted."""
    made = asking(served, path, protocols)
    head = b""
    while b"\r\n\r\n" not in head:
        head += made.recv(1)
    assert head.startswith(b"HTTP/1.1 101 "), head
    return made


CHANNELS = st.lists(
    st.one_of(
        st.binary(max_size=40).map(lambda data: websocket.frame(websocket.BINARY, data, mask=True)),
        st.tuples(st.sampled_from([0, 1, 4, 255]), st.binary(max_size=20)).map(
            lambda pair: websocket.frame(websocket.BINARY, bytes([pair[0]]) + pair[1], mask=True)
        ),
        st.sampled_from([b'\4{"Width":1e99,"Height":-1}', b"\4[]", b'\4{"Width":70000,"Height":2}']).map(
            lambda data: websocket.frame(websocket.BINARY, data, mask=True)
        ),
        st.binary(max_size=30),
    ),
    max_size=6,
)


def test_nonsense_in_the_channels_ends_that_connection_alone(train: Served) -> None:
    before = len(os.listdir("/proc/self/fd"))

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(CHANNELS)
    def talk(parts: list[bytes]) -> None:
        with raw(train) as made:
            for part in parts:
                try:
                    made.sendall(part)
                except OSError:
                    break

    talk()
    assert ran(train, "hello", "7") == (7, b"hello\n")
    # Whoever goes away takes all that was opened for them along.
    for _ in range(200):
        if len(os.listdir("/proc/self/fd")) <= before + 2:
            break
        threading.Event().wait(0.05)
    else:
        raise AssertionError(f"{len(os.listdir('/proc/self/fd'))} descriptors are open, {before} were before")


def test_an_error_is_told_as_the_service_tells_it(train: Served) -> None:
    def fails(*_: object) -> Any:
        raise NotRunning("gone", hint="look")

    train.outside.begin = fails
    with pytest.raises(NotRunning, match="gone"):
        ran(train, "hello")


def asking_by_websocket(served: Served) -> list[socket.socket]:
    return [asking(served, f"{PORTFORWARD}?ports=8888") for _ in range(2 * api.THREADS)]


def asking_by_spdy(served: Served) -> list[socket.socket]:
    """As kubectl does: all over one connection, which is there at once, and is pinged first."""
    made, streams = raw(served, PORTFORWARD, SPDY), SpdyClient()
    for number in range(2 * api.THREADS):
        for stream, kind in ((4 * number + 1, "error"), (4 * number + 3, "data")):
            frame = streams.open(stream, streamtype=kind, port="8888", requestid=str(number))
            made.sendall(websocket.frame(websocket.BINARY, frame, mask=True))
    return [made]


@pytest.mark.parametrize(
    ("ask", "answer"), [(asking_by_websocket, b"HTTP/1.1 4"), (asking_by_spdy, b"\x89\0")], ids=["websocket", "spdy"]
)
def test_ports_that_take_no_connection_hold_up_nobody_else(
    train: Served, ask: Callable[[Served], list[socket.socket]], answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.store.create(binding("user", "User", "ann", "default"))
    goes_on, reached = threading.Event(), []

    def stuck(*_: object) -> socket.socket:
        reached.append(1)
        goes_on.wait()
        raise NotRunning("it takes no connection")

    train.outside.connect = stuck
    who, known = [ANN], []

    def asks(_: Served) -> Identity:
        known.append(who[-1])
        return who[-1]

    monkeypatch.setattr(Served, "asks", property(asks), raising=False)
    ports = ask(train)
    try:
        # Also the last of them is known to be hers, before anybody else asks.
        eventually(lambda: len(reached) >= api.OF_ONE_USER and len(known) >= len(ports))
        who.append(Identity("root", 0))
        assert train.ask("GET", "/api/v1/namespaces/default/pods").code == 200
        # Of the same kind, and another user's.
        assert ran(train, "hello") == (0, b"hello\n")
        assert len(reached) == api.OF_ONE_USER
    finally:
        goes_on.set()
    for each in ports:
        with each:
            assert each.recv(12).startswith(answer)


def test_who_goes_away_in_the_middle_is_no_defect(train: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    defects: list[object] = []
    monkeypatch.setattr(app, "_log", SimpleNamespace(error=lambda *_, **words: defects.append(words)))
    ended = threading.Semaphore(0)

    def flood(*_: object) -> socket.socket:
        near, far = socket.socketpair()

        def write() -> None:
            with far:
                try:
                    while True:
                        far.sendall(bytes(65536))
                except OSError:
                    ended.release()

        threading.Thread(target=write, daemon=True).start()
        return near

    train.outside.connect = flood
    for _ in range(3):
        with raw(train, f"{PORTFORWARD}?ports=8888") as made:
            made.recv(100_000)
        assert ended.acquire(timeout=PATIENCE)
    started, begin = threading.Event(), train.outside.begin

    def late(*given: Any) -> Any:
        started.wait(PATIENCE)
        return begin(*given)

    train.outside.begin = late
    asking(train, f"{EXEC}?command=cat").close()
    # It is seen by the server's only thread before this is answered.
    assert train.ask("GET", "/api/v1/namespaces/default/pods").code == 200
    started.set()
    assert ran(train, "hello") == (0, b"hello\n")
    assert defects == []
