"""Bytes that are no messages, and messages that make no sense: an error of the client, and the server goes on."""

from __future__ import annotations

import random
from typing import Any

import grpc
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.server.grpc.service import NAME
from tests.server.grpc.conftest import ANN, Served, code_of

METHODS = pb.DESCRIPTOR.services_by_name["Orchestrator"].methods
CLIENTS_FAULT = {
    StatusCode.OK, StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.PERMISSION_DENIED,
    StatusCode.OUT_OF_RANGE, StatusCode.FAILED_PRECONDITION, StatusCode.ALREADY_EXISTS, StatusCode.ABORTED,
    StatusCode.UNIMPLEMENTED,
}  # fmt: skip


def code(served: Served, method: Any, *requests: bytes) -> StatusCode:
    """What comes of these bytes."""
    channel = served.by(ANN).channel
    try:
        make = channel.stream_stream if method.client_streaming else channel.unary_stream
        call = make(f"/{NAME}/{method.name}")
        for _ in call(iter(requests) if method.client_streaming else requests[0], timeout=10):
            pass
    except grpc.RpcError as error:
        return code_of(error)
    return StatusCode.OK


def test_any_bytes(served: Served) -> None:
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=80), st.sampled_from(list(METHODS)))
    def check(data: bytes, method: Any) -> None:
        assert code(served, method, data, data) in CLIENTS_FAULT

    check()


def test_messages_with_bits_turned(served: Served) -> None:
    chance = random.Random(20261129)
    valid = {
        "Submit": pb.SubmitRequest(idempotency_key="k", object=b'{"kind": "GPUJob", "metadata": {"name": "x"}}'),
        "Get": pb.GetRequest(job=pb.JobRef(namespace="team", name="x")),
        "List": pb.ListRequest(namespace="team", label_selector="a=b", limit=5),
        "Logs": pb.LogsRequest(job=pb.JobRef(namespace="team", name="x"), position="1.5"),
        "Result": pb.ResultRequest(job=pb.JobRef(namespace="team", name="x"), timeout=1.0),
        "PutBlob": pb.PutBlobRequest(header=pb.BlobHeader(sha256="0" * 64, size=5)),
        "FindBlobs": pb.FindBlobsRequest(blobs=[pb.BlobHeader(sha256="0" * 64, size=5)]),
    }
    for method in METHODS:
        if method.name not in valid:
            continue
        for _ in range(6):
            data = bytearray(valid[method.name].SerializeToString())  # type: ignore[attr-defined]
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            assert code(served, method, bytes(data)) in CLIENTS_FAULT, (method.name, bytes(data))
    served.by(ANN).List(pb.ListRequest(namespace="team"))


def test_numbers_at_their_ends(served: Served) -> None:
    ann, job = served.by(ANN), pb.JobRef(namespace="team", name="x")
    largest = 2**63 - 1
    for requests in (
        pb.GetBlobRequest(sha256="0" * 64, offset=-1), pb.GetBlobRequest(sha256="0" * 64, offset=largest),
        pb.ResultRequest(job=job, timeout=float("nan")), pb.ResultRequest(job=job, timeout=float("inf"), offset=-1),
        pb.LogsRequest(job=job, attempt=-(2**31), replica=2**31 - 1), pb.CancelRequest(job=job, grace_seconds=-1),
        pb.ListRequest(namespace="team", limit=-5), pb.ListRequest(namespace="team/../x", label_selector="((("),
    ):  # fmt: skip
        name = type(requests).__name__.removesuffix("Request")
        method = next(each for each in METHODS if each.name == name)
        assert code(served, method, requests.SerializeToString()) in CLIENTS_FAULT, requests
    ann.List(pb.ListRequest(namespace="team"))
