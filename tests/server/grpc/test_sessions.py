"""Calls in a session, whose process is a thread here: it answers with the payload in capitals."""

from __future__ import annotations

import hashlib
import queue
import tempfile
import threading
from collections.abc import Iterator
from typing import BinaryIO

import grpc
import pytest
from grpc import StatusCode

from cumulus.calls.outcome import RETURNED, Outcome
from cumulus.calls.session import SessionConnection, connect
from cumulus.resources.key import Document, Key
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.runner.serving import serve
from cumulus.server.grpc import door
from tests.documents import ago
from tests.server.grpc.conftest import ANN, BOB, ROOT, Served, code_of
from tests.server.grpc.test_blobs import parts
from tests.server.grpc.test_jobs import job, ref
from tests.waiting import PATIENCE

PAYLOAD = hashlib.sha256(b"payload").hexdigest()


class Running:
    """A session that answers, and waits for `go` before each answer to a payload that says so."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.path = self._directory.name
        self.go = threading.Event()
        self.answered: list[bytes] = []
        threading.Thread(target=serve, args=(self.path, self._answer), daemon=True).start()

    def _answer(self, payload: BinaryIO, digest: str, result: BinaryIO) -> Outcome:
        asked = payload.read()
        if asked.startswith(b"wait"):
            self.go.wait(PATIENCE)
        self.answered.append(asked)
        said = asked.upper()
        result.write(said)
        result.flush()
        return Outcome(RETURNED, result=hashlib.sha256(said).hexdigest(), result_size=len(said))


@pytest.fixture
def session(served: Served) -> Document:
    """A session of Ann's that waits for its share."""
    served.by(ANN).PutBlob(parts(b"payload", sha256=PAYLOAD, size=7))
    document = job(call={"payload": PAYLOAD, "python": "3.11", "session": True})
    del document["spec"]["command"]
    return served.by(ANN).submit(document)


@pytest.fixture
def running(served: Served, session: Document) -> Running:
    made = Running()
    served.outside.session_directory = made.path
    tell(served, "Running")
    return made


def tell(served: Served, phase: str) -> None:
    found = served.store.get(Key("GPUJob", "team", "train"))
    attempt = {"number": 1, "node": "n", "startTime": ago(minutes=1)}
    served.store.update_status({**found, "status": {**found["status"], "phase": phase, "attempts": [attempt]}})


def calls(*payloads: bytes, piece: int = 2**20) -> Iterator[pb.CallRequest]:
    for id, payload in enumerate(payloads, 1):
        head = pb.CallStart(id=id, size=len(payload), data=payload[:piece])
        if id == 1:
            head.job.CopyFrom(ref())
        yield pb.CallRequest(start=head)
        for begin in range(piece, len(payload), piece):
            yield pb.CallRequest(data=payload[begin : begin + piece])


def answers(responses: Iterator[pb.CallResponse]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for response in responses:
        found[response.id] = found.get(response.id, b"") + response.data
    return found


def test_calls_are_answered_in_their_order(served: Served, running: Running) -> None:
    large = bytes(range(97, 123)) * 100_000
    found = answers(served.by(ANN).Call(calls(b"one", large, b"", b"three", piece=2**18)))
    assert found == {1: b"ONE", 2: large.upper(), 3: b"", 4: b"THREE"}
    assert list(found) == [1, 2, 3, 4]


def test_a_session_is_waited_for(served: Served, session: Document) -> None:
    found = served.by(ANN).Call(calls(b"one"))
    made = Running()
    tell(served, "Running")
    served.outside.session_directory = made.path
    assert answers(found) == {1: b"ONE"}


def test_a_stream_may_begin_without_a_call(served: Served, running: Running) -> None:
    first = pb.CallRequest(start=pb.CallStart(job=ref()))
    sending: queue.SimpleQueue[pb.CallRequest | None] = queue.SimpleQueue()
    sending.put(first)
    responses = served.by(ANN).Call(iter(sending.get, None))
    sending.put(pb.CallRequest(start=pb.CallStart(id=7, size=1, data=b"x")))
    assert next(responses).id == 7
    sending.put(None)
    assert list(responses) == []


def test_a_client_that_went_away_leaves_the_session_be(served: Served, running: Running) -> None:
    left = served.by(ANN).Call(calls(b"wait for it"))
    while_it_runs = served.by(ANN).Call(calls(b"behind"))
    left.cancel()
    running.go.set()
    assert answers(while_it_runs) == {1: b"BEHIND"}
    # Sent again, it is not run again.
    assert answers(served.by(ANN).Call(calls(b"wait for it"))) == {1: b"WAIT FOR IT"}
    assert sorted(running.answered) == [b"behind", b"wait for it"]


def test_over_is_over(served: Served, running: Running) -> None:
    tell(served, "Failed")
    with pytest.raises(grpc.RpcError) as ended:
        answers(served.by(ANN).Call(calls(b"one")))
    assert code_of(ended.value) is StatusCode.FAILED_PRECONDITION


def test_one_that_goes_away_in_a_call_may_be_asked_for_again(
    served: Served, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SessionConnection] = []

    def connected(*_: object) -> SessionConnection:
        made.append(connect(running.path))
        return made[-1]

    monkeypatch.setattr(served.outside, "session", connected)
    responses = served.by(ANN).Call(calls(b"one", b"wait"))
    assert next(responses).data == b"ONE"
    made[0].abort()
    with pytest.raises(grpc.RpcError) as ended:
        next(responses)
    assert code_of(ended.value) is StatusCode.UNAVAILABLE


def test_a_token_that_is_revoked_calls_nothing_more(
    served: Served, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "KNOWN_SECONDS", 0.0)
    token = served.service.tokens.create(ROOT, "t", user="ann")
    ann = ANN._replace(token=served.service.tokens.authenticate(token.token).token)
    sent: queue.SimpleQueue[pb.CallRequest | None] = queue.SimpleQueue()
    responses = served.by(ann).Call(iter(sent.get, None))
    first, second = calls(b"one", b"two")
    sent.put(first)
    assert next(responses).data == b"ONE"
    served.service.tokens.revoke(ROOT, "t", user="ann")
    sent.put(second)
    sent.put(None)
    with pytest.raises(grpc.RpcError) as refused:
        list(responses)
    assert code_of(refused.value) is StatusCode.UNAUTHENTICATED
    assert running.answered == [b"one"]


def test_others_call_nothing_in_it(served: Served, running: Running) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        answers(served.by(BOB).Call(calls(b"one")))
    assert code_of(refused.value) is StatusCode.PERMISSION_DENIED
    assert not running.answered


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [pb.CallRequest(data=b"x")],
        [pb.CallRequest(start=pb.CallStart(id=1, size=1, data=b"x"))],
        [pb.CallRequest(start=pb.CallStart(job=ref(), id=1, size=1, data=b"more"))],
        [pb.CallRequest(start=pb.CallStart(job=ref(), id=1, size=-1))],
        [pb.CallRequest(start=pb.CallStart(job=ref(), id=1, size=9, data=b"less"))],
        [pb.CallRequest(start=pb.CallStart(job=ref(), id=1, size=2**62))],
    ],
)
def test_what_is_no_call_is_refused(served: Served, running: Running, requests: list[pb.CallRequest]) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        answers(served.by(ANN).Call(iter(requests)))
    assert code_of(refused.value) is StatusCode.INVALID_ARGUMENT
    assert not running.answered


def test_a_job_that_is_no_session(served: Served) -> None:
    served.by(ANN).submit(job())
    with pytest.raises(grpc.RpcError) as refused:
        answers(served.by(ANN).Call(calls(b"one")))
    assert code_of(refused.value) is StatusCode.INVALID_ARGUMENT
