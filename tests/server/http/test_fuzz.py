"""Requests that nobody means: those that schemathesis makes of our own OpenAPI, and bytes that are no requests.

Whatever comes, no answer is a 500, and the next request is served."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import structlog
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cumulus.clock import FakeClock
from cumulus.store.memory import MemoryStore
from tests.documents import NOW, job, node, running
from tests.server.http.conftest import serving
from tests.service.conftest import ME, FakeInfrastructure
from tests.waiting import PATIENCE

GROUP = "/openapi/v3/apis/cumulus.dev/v1alpha1"


@pytest.fixture(scope="module")
def log() -> Iterator[list[Any]]:
    """What the server logs. Shown by structlog's own choice, with the locals of every frame, one traceback takes longer
    than a client waits."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, log: list[Any]) -> Iterator[str]:
    store = MemoryStore(FakeClock(NOW))
    for document in (job("a"), running("b", labels={"x": "1"}), node("a")):
        store.create(document)
    home: Path = tmp_path_factory.mktemp("home")
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        serving(listening, store, home, FakeClock(NOW), FakeInfrastructure(), lambda: ME),
    ):
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def check(session: requests.Session, case: Any, address: str, log: list[Any]) -> None:
    """One request of schemathesis: its answer is one of ours."""
    log.clear()
    given = case.as_transport_kwargs(base_url=address)
    with session.request(**given, stream=True, timeout=PATIENCE, allow_redirects=False) as answer:
        assert answer.status_code < 500, (given, answer.text, log)
        if "content-length" not in answer.headers:
            # A watch, which need not end.
            return
        if answer.status_code >= 400 and given["method"] != "HEAD":
            status = answer.json()
            assert (status["kind"], status["code"]) == ("Status", answer.status_code), (given, status)
            assert status["message"], given


def fuzz(address: str, log: list[Any], examples: int) -> None:
    # Loaded here alone: every process of a run reads this file, and one of them runs it.
    import schemathesis
    from schemathesis import GenerationMode

    schema = schemathesis.openapi.from_dict(requests.get(f"{address}{GROUP}", timeout=PATIENCE).json())
    operations = st.sampled_from([found.ok() for found in schema.get_all_operations()])
    modes = st.sampled_from([GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    # The strategy of an operation is only made, which takes long, where the operation is drawn.
    cases = st.tuples(operations, modes).flatmap(lambda drawn: drawn[0].as_strategy(generation_mode=drawn[1]))
    session = requests.Session()

    @settings(
        max_examples=examples,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(cases, st.booleans())
    def ask(case: Any, known: bool) -> None:
        if known:
            # What is there is met more often than by chance.
            for name, value in (("namespace", "default"), ("name", "a")):
                if name in (case.path_parameters or {}):
                    case.path_parameters[name] = value
        check(session, case, address, log)

    ask()
    assert requests.get(f"{address}/livez", timeout=PATIENCE).text == "ok"


def test_requests_made_of_our_openapi(address: str, log: list[Any]) -> None:
    fuzz(address, log, 20)


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)  # It took 270 seconds of a processor.
def test_many_requests_made_of_our_openapi(address: str, log: list[Any]) -> None:
    fuzz(address, log, 5000)


LINES = st.sampled_from(
    [
        b"GET /livez HTTP/1.1", b"GET /livez HTTP/9.9",
        b"GET  HTTP/1.1", b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0",
        b"POST /apis/cumulus.dev/v1alpha1/namespaces/default/gpujobs HTTP/1.1", b"GET /%ff%00/../.. HTTP/1.1",
        b"PATCH /apis/cumulus.dev/v1alpha1/namespaces/default/gpujobs/a HTTP/1.1", b"OPTIONS * HTTP/1.1",
        b"GET /apis/cumulus.dev/v1alpha1/gpujobs?watch=1&timeoutSeconds=1 HTTP/1.1", b"CONNECT a:1 HTTP/1.1",
    ]
)  # fmt: skip
HEADERS = st.sampled_from(
    [
        b"host: a", b"host: a\r\nhost: b", b"content-length: 5", b"content-length: -1",
        b"content-length: 99999999999999999999",
        b"content-length: 5\r\ncontent-length: 6", b"transfer-encoding: chunked", b"transfer-encoding: nonsense",
        b"expect: 100-continue", b"connection: upgrade\r\nupgrade: websocket", b"upgrade: h2c", b"accept: \xff\xfe",
        b"content-type: application/json; charset=\xff", b"content-encoding: gzip", b": empty", b"no colon",
        b"a: " + b"x" * 70_000, b"content-type: application/yaml", b"content-type: application/merge-patch+json",
        b"authorization: Bearer \xff", b"range: bytes=0-1", b"if-none-match: *", b"x: \x00",
    ]
)  # fmt: skip
BODIES = st.binary(max_size=60) | st.sampled_from(
    [
        b"5\r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"zz\r\n",
        b"{}",
        b'{"a":',
        b"- a: &a [*a]",
        b"GET /livez HTTP/1.1\r\n\r\n",
    ]
)
REQUESTS = st.builds(
    lambda line, headers, body: b"\r\n".join([line, *headers]) + b"\r\n\r\n" + body,
    LINES | st.binary(max_size=40),
    st.lists(HEADERS, max_size=4),
    BODIES,
)


def exchange(address: str, sent: bytes, *, half: bool) -> bytes:
    """What the server answers before it closes, or has no more to say. `half`: nothing more is sent, or to come."""
    host, _, port = address.removeprefix("http://").partition(":")
    chunks = []
    # A server that waits for more waits until we hang up.
    patience = PATIENCE if half else 0.05
    with socket.create_connection((host, int(port)), timeout=patience) as connection, suppress(OSError):
        connection.sendall(sent)
        if half:
            connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    return b"".join(chunks)


@settings(max_examples=80, deadline=None, phases=(Phase.generate, Phase.shrink))
@given(REQUESTS, st.booleans())
def test_bytes_that_are_hardly_a_request(address: str, sent: bytes, half: bool) -> None:
    answer = exchange(address, sent, half=half)
    assert not answer or answer.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), answer
    for line in answer.split(b"\r\n"):
        assert not line.startswith((b"HTTP/1.1 5", b"HTTP/1.0 5")), (sent, answer)


def test_after_all_of_that_it_answers(address: str) -> None:
    assert requests.get(f"{address}/livez", timeout=PATIENCE).text == "ok"
