"""What came of a call: for its submitter, once it is over."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from cumulus.blob.base import owner_of
from cumulus.calls.outcome import OUTCOMES, Outcome
from cumulus.resources.key import Document, Key
from cumulus.rpc import orchestrator_pb2 as pb
from tests.server.grpc.conftest import ANN, BOB, ROOT, Served, code_of
from tests.server.grpc.test_blobs import parts
from tests.server.grpc.test_jobs import CALL, job, ref
from tests.waiting import PATIENCE

RESULT = b"a pickle" * 2**17
SHA256 = hashlib.sha256(RESULT).hexdigest()


@pytest.fixture
def call(served: Served) -> Document:
    served.by(ANN).PutBlob(parts(b"payload", sha256=hashlib.sha256(b"payload").hexdigest(), size=7))
    document = job(call={**CALL, "payload": hashlib.sha256(b"payload").hexdigest()})
    del document["spec"]["command"]
    return served.by(ANN).submit(document)


def end(served: Served, phase: str = "Succeeded", **call: Any) -> None:
    if call:
        served.outside.blobs.write(owner_of(ANN), SHA256, len(RESULT), [RESULT])
    found = served.store.get(Key("GPUJob", "team", "train"))
    served.store.update_status({**found, "status": {**found["status"], "phase": phase, "call": call}})


def test_the_result_comes_when_the_call_is_over(served: Served, call: Document) -> None:
    chunks: list[pb.ResultChunk] = []
    asking = threading.Thread(target=lambda: chunks.extend(served.by(ANN).Result(pb.ResultRequest(job=ref()))))
    asking.start()
    end(served, outcome="Returned", result=SHA256, resultSize=len(RESULT), signature="0" * 64)
    asking.join(PATIENCE)
    header, *rest = chunks
    outcome = Outcome.read(header.header.outcome, OUTCOMES)
    assert (outcome.outcome, outcome.result, outcome.signature) == ("Returned", SHA256, "0" * 64)
    assert (header.header.sha256, header.header.size) == (SHA256, len(RESULT))
    assert json.loads(header.header.job.object)["status"]["phase"] == "Succeeded"
    assert b"".join(each.data for each in rest) == RESULT
    _, *rest = served.by(ANN).Result(pb.ResultRequest(job=ref(), offset=2**19))
    assert b"".join(each.data for each in rest) == RESULT[2**19 :]


def test_a_call_without_a_result_says_why(served: Served, call: Document) -> None:
    end(served, "Failed", outcome="NodeLost", text="the node went away")
    (chunk,) = served.by(ANN).Result(pb.ResultRequest(job=ref()))
    assert Outcome.read(chunk.header.outcome, OUTCOMES).text == "the node went away"


def test_others_get_neither_outcome_nor_bytes(served: Served, call: Document) -> None:
    end(served, outcome="Returned", result=SHA256, resultSize=len(RESULT))
    for other in (BOB, ROOT):
        with pytest.raises(grpc.RpcError) as refused:
            list(served.by(other).Result(pb.ResultRequest(job=ref())))
        assert code_of(refused.value) is StatusCode.PERMISSION_DENIED


def test_a_wait_ends(served: Served, call: Document) -> None:
    for seconds in (-1.0, math.nan):
        with pytest.raises(grpc.RpcError) as ended:
            list(served.by(ANN).Result(pb.ResultRequest(job=ref(), timeout=seconds)))
        assert code_of(ended.value) is StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as ended:
        list(served.by(ANN).Result(pb.ResultRequest(job=ref(), timeout=0.05)))
    assert code_of(ended.value) is StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError) as ended:
        list(served.by(ANN).Result(pb.ResultRequest(job=ref(uid="another"))))
    assert code_of(ended.value) is StatusCode.NOT_FOUND
    waiting = served.by(ANN).Result(pb.ResultRequest(job=ref()))
    served.by(ANN).Cancel(pb.CancelRequest(job=ref()))
    with pytest.raises(grpc.RpcError) as ended:
        list(waiting)
    assert code_of(ended.value) is StatusCode.NOT_FOUND
