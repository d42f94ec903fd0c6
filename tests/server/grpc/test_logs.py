"""Logs over gRPC: each byte once and in order, wherever one is cut off."""

from __future__ import annotations

import threading

import grpc
import pytest
from grpc import StatusCode

from cumulus.backends.logs import Gap, LogRetention
from cumulus.backends.rundir.log import FileLog
from cumulus.rpc import orchestrator_pb2 as pb
from tests.documents import ago
from tests.server.grpc.conftest import ANN, BOB, EVE, Served, code_of
from tests.server.grpc.test_jobs import job, ref
from tests.waiting import PATIENCE

BEGUN = {"startTime": ago(minutes=5), "node": "n"}
OVER = {**BEGUN, "endTime": ago(minutes=4), "reason": "Error", "exitCode": 1}


@pytest.fixture
def written(served: Served) -> Served:
    """A job with two attempts that are over."""
    attempts = [{"number": 1, **OVER}, {"number": 2, **OVER}]
    document = {**job(), "status": {"phase": "Failed", "attempts": attempts}}
    document["metadata"]["annotations"] = {"cumulus.dev/submitter": "ann"}
    served.store.create(document)
    served.outside.logs.chunks = {
        (1, 0): [b"one\n", b"", b"two\n"], (2, 0): [b"three\n", Gap.of(1000), b"four\n"],
    }  # fmt: skip
    return served


def read(served: Served, position: str = "", *, follow: bool = True, attempt: int = 0) -> list[pb.LogChunk]:
    request = pb.LogsRequest(job=ref(), position=position, follow=follow, attempt=attempt)
    return list(served.by(ANN).Logs(request))


def test_from_each_position_on_the_rest_comes_once(written: Served) -> None:
    whole = read(written, "1.0")
    assert [chunk.data for chunk in whole if chunk.data] == [b"one\n", b"two\n", b"three\n", b"four\n"]
    assert sum(chunk.dropped for chunk in whole) == 1000
    for index, chunk in enumerate(whole):
        assert read(written, chunk.position) == whole[index + 1 :]
        written.stop()
        written.start()


def test_the_last_attempt_is_shown_unless_another_is_asked_for(written: Served) -> None:
    for follow in (False, True):
        assert b"".join(chunk.data for chunk in read(written, follow=follow)) == b"three\nfour\n"
        assert b"".join(chunk.data for chunk in read(written, attempt=1, follow=follow)) == b"one\ntwo\n"
        assert b"".join(chunk.data for chunk in read(written, "1.4", follow=follow)) == b"two\nthree\nfour\n"


def test_a_log_that_the_servers_end_cuts_off_does_not_look_whole(written: Served) -> None:
    written.outside.logs.ended = lambda _: go_on.wait(PATIENCE)
    go_on = threading.Event()
    chunks = written.by(ANN).Logs(pb.LogsRequest(job=ref(), position="1.0", follow=True))
    next(chunks)
    ending = threading.Thread(target=written.server.api.streams.close)
    ending.start()
    with pytest.raises(grpc.RpcError) as ended:
        list(chunks)
    assert code_of(ended.value) is StatusCode.UNAVAILABLE
    go_on.set()
    ending.join()


@pytest.mark.parametrize("position", ["x", "1", "1.-1", "0.3", "1.1.1", "٣.٣", "9" * 40])
def test_a_position_that_is_none_is_refused(written: Served, position: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        read(written, position)
    assert code_of(refused.value) is StatusCode.INVALID_ARGUMENT


def test_what_others_may_not_read(written: Served) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(written.by(EVE).Logs(pb.LogsRequest(job=ref())))
    assert code_of(refused.value) is StatusCode.PERMISSION_DENIED
    # Who has a role in the namespace may read what runs there.
    assert list(written.by(BOB).Logs(pb.LogsRequest(job=ref())))


def test_a_file_goes_on_at_any_byte_and_counts_what_was_dropped(tmp_path: object) -> None:
    log = FileLog(str(tmp_path), LogRetention(100, 140))
    writer = log.writer()
    content = b"".join(b"%04d\n" % number for number in range(1000))
    writer.append(content)
    writer.seal()
    for begin in (0, 3, 100, 105, 2000, 4990, 5000):
        position = begin
        for chunk in log.read(position=begin):
            if isinstance(chunk, Gap):
                position += chunk.dropped
            else:
                assert content[position : position + len(chunk)] == chunk
                position += len(chunk)
        assert position == len(content)
