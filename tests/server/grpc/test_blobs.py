"""Blobs over gRPC: each user's own, whole or not at all, and on from where one was cut off."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator

import grpc
import pytest
from grpc import StatusCode

from cumulus.rpc import orchestrator_pb2 as pb
from tests.server.grpc.conftest import ANN, BOB, EVE, Caller, Served, code_of, error_of
from tests.server.grpc.test_jobs import job
from tests.waiting import PATIENCE, eventually

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def parts(
    content: bytes = CONTENT, *, sha256: str = SHA256, offset: int = 0, size: int = len(CONTENT)
) -> Iterator[pb.PutBlobRequest]:
    yield pb.PutBlobRequest(header=pb.BlobHeader(sha256=sha256, size=size, offset=offset))
    for begin in range(0, len(content), 2**18):
        yield pb.PutBlobRequest(data=content[begin : begin + 2**18])


def found(caller: Caller, sha256: str = SHA256) -> pb.Blob:
    (blob,) = caller.FindBlobs(pb.FindBlobsRequest(blobs=[pb.BlobHeader(sha256=sha256, size=len(CONTENT))])).blobs
    return blob


def got(caller: Caller, offset: int = 0) -> bytes:
    return b"".join(chunk.data for chunk in caller.GetBlob(pb.GetBlobRequest(sha256=SHA256, offset=offset)))


def test_what_was_put_is_found_and_got_by_its_owner_alone(served: Served) -> None:
    ann, bob = served.by(ANN), served.by(BOB)
    assert found(ann).received == 0
    assert ann.PutBlob(parts()).received == len(CONTENT)
    assert found(ann).received == found(ann).size == len(CONTENT)
    assert got(ann) == CONTENT
    assert got(ann, 1000) == CONTENT[1000:]
    # Knowing the hash gives neither access nor an answer.
    assert found(bob).received == 0
    with pytest.raises(grpc.RpcError) as refused:
        got(bob)
    assert code_of(refused.value) is StatusCode.NOT_FOUND
    assert bob.PutBlob(parts()).received == len(CONTENT)


def test_an_upload_that_broke_off_goes_on(served: Served) -> None:
    ann, go_on = served.by(ANN), threading.Event()

    def broken() -> Iterator[pb.PutBlobRequest]:
        yield from list(parts())[:3]
        go_on.wait(PATIENCE)

    call = ann.PutBlob.future(broken())  # type: ignore[attr-defined]
    eventually(lambda: served.server.api.service.blobs is not None)
    eventually(lambda: _received_on_disk(served) >= 2**19, what="two pieces came")
    call.cancel()
    go_on.set()
    eventually(lambda: found(ann).received == 2**19, what="what came is kept")
    # The server may learn a moment later that the first has broken off, and says so.
    rest = eventually(lambda: _unless_busy(lambda: ann.PutBlob(parts(CONTENT[2**19 :], offset=2**19))))
    assert rest.received == len(CONTENT)
    assert got(ann) == CONTENT


def _unless_busy(put: Callable[[], pb.Blob]) -> pb.Blob | None:
    try:
        return put()
    except grpc.RpcError as error:
        if error.code() is not StatusCode.ABORTED:
            raise
        return None


def _received_on_disk(served: Served) -> int:
    find = served.service.blobs.find
    return find(ANN, [(SHA256, len(CONTENT))])[0].received


def test_what_is_there_already_is_not_sent_twice(served: Served) -> None:
    ann = served.by(ANN)
    ann.PutBlob(parts())
    sent = []

    def again() -> Iterator[pb.PutBlobRequest]:
        for part in parts():
            sent.append(part)
            yield part

    assert ann.PutBlob(again()).received == len(CONTENT)


@pytest.mark.parametrize(
    ("requests", "code"),
    [
        ([], StatusCode.INVALID_ARGUMENT),
        ([pb.PutBlobRequest(data=b"x")], StatusCode.INVALID_ARGUMENT),
        (list(parts(sha256="../../etc/passwd")), StatusCode.INVALID_ARGUMENT),
        (list(parts(sha256=SHA256.upper())), StatusCode.INVALID_ARGUMENT),
        (list(parts(size=-1)), StatusCode.INVALID_ARGUMENT),
        (list(parts(b"another content" * 100, size=1500)), StatusCode.INVALID_ARGUMENT),
        (list(parts(CONTENT + b"more")), StatusCode.INVALID_ARGUMENT),
        (list(parts(offset=7)), StatusCode.OUT_OF_RANGE),
        (list(parts(size=2**60)), StatusCode.FAILED_PRECONDITION),
        ([next(parts()), next(parts())], StatusCode.INVALID_ARGUMENT),
    ],
)
def test_what_is_no_such_blob_is_refused(served: Served, requests: list[pb.PutBlobRequest], code: StatusCode) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        served.by(ANN).PutBlob(iter(requests))
    assert code_of(refused.value) is code
    assert found(served.by(ANN)).received == 0


def test_who_may_make_no_job_stores_nothing(served: Served) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        served.by(EVE).PutBlob(parts())
    assert code_of(refused.value) is StatusCode.PERMISSION_DENIED


def test_too_many_are_asked_for(served: Served) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        served.by(ANN).FindBlobs(pb.FindBlobsRequest(blobs=[pb.BlobHeader(sha256=SHA256)] * 1001))
    assert code_of(refused.value) is StatusCode.INVALID_ARGUMENT


def test_a_job_is_made_of_blobs_of_its_submitter(served: Served) -> None:
    document = job(call={"payload": SHA256, "python": "3.11", "archive": "0" * 64})
    del document["spec"]["command"]
    served.by(BOB).PutBlob(parts())
    with pytest.raises(grpc.RpcError) as refused:
        served.by(ANN).submit(document)
    assert [each.field for each in error_of(refused.value).problems] == ["spec.call.payload", "spec.call.archive"]
    served.by(ANN).PutBlob(parts())
    del document["spec"]["call"]["archive"]
    served.by(ANN).submit(document)
