"""Each RPC, for each role: who may, and what of others one never reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from cumulus.blob.base import owner_of
from cumulus.resources.key import Document, Key
from cumulus.resources.roles import Role
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.server.grpc.service import NAME
from cumulus.service.identity import Identity
from tests.documents import ago
from tests.server.grpc.conftest import ANN, Caller, Served, code_of
from tests.server.grpc.test_blobs import CONTENT, SHA256, parts
from tests.server.grpc.test_jobs import job, ref
from tests.service.test_access import binding

Ask = Callable[[Caller], Any]
CALLS: dict[str, tuple[Ask, Role | None]] = {
    "Submit": (lambda c: c.submit(job("new")), Role.USER),
    "Get": (lambda c: c.Get(pb.GetRequest(job=ref())), Role.VIEWER),
    "List": (lambda c: c.List(pb.ListRequest(namespace="team")), Role.VIEWER),
    "Watch": (lambda c: list(c.Watch(pb.WatchRequest(job=ref()))), Role.VIEWER),
    "Logs": (lambda c: list(c.Logs(pb.LogsRequest(job=ref()))), Role.VIEWER),
    "Cancel": (lambda c: c.Cancel(pb.CancelRequest(job=ref())), Role.ADMIN),
    "PutBlob": (lambda c: c.PutBlob(parts()), Role.USER),
    "FindBlobs": (lambda c: c.FindBlobs(pb.FindBlobsRequest(blobs=[pb.BlobHeader(sha256=SHA256)])), None),
}
"""The least role in the namespace, for a job of Ann's. Who has none is told nothing but what is theirs."""
THEIRS: dict[str, Ask] = {
    "Attend": lambda c: c.Attend(pb.AttendRequest(job=ref())),
    "Result": lambda c: list(c.Result(pb.ResultRequest(job=ref()))),
    "GetBlob": lambda c: list(c.GetBlob(pb.GetBlobRequest(sha256=SHA256))),
}
"""For Ann alone, whatever the role of others."""
KIM = Identity("eve", 1003)


@pytest.fixture
def anns(served: Served) -> Served:
    """A call of Ann's that is over, with its log and result."""
    owner = owner_of(ANN)
    payload = hashlib.sha256(b"payload").hexdigest()
    served.outside.blobs.write(owner, payload, 7, [b"payload"])
    served.outside.blobs.write(owner, SHA256, len(CONTENT), [CONTENT])
    document: Document = job(call={"payload": payload, "python": "3.11"})
    del document["spec"]["command"]
    served.by(ANN).submit(document)
    found = served.store.get(Key("GPUJob", "team", "train"))
    attempt = {"number": 1, "node": "n", "startTime": ago(minutes=5), "endTime": ago(minutes=4)}
    call = {"outcome": "Returned", "result": SHA256, "resultSize": len(CONTENT)}
    served.store.update_status({**found, "status": {"phase": "Succeeded", "attempts": [attempt], "call": call}})
    served.outside.logs.chunks = {(1, 0): [b"hers\n"]}
    return served


def outcome(ask: Ask, caller: Caller) -> StatusCode:
    try:
        ask(caller)
    except grpc.RpcError as error:
        return code_of(error)
    return StatusCode.OK


@pytest.mark.parametrize("role", [None, *Role], ids=str)
def test_each_rpc(anns: Served, role: Role | None) -> None:
    if role is not None:
        anns.store.create(binding(role, "User", "eve", "team", "eves"))
    caller = anns.by(KIM)
    theirs = {name: outcome(ask, caller) for name, ask in THEIRS.items()}
    assert {*theirs.values()} <= {StatusCode.PERMISSION_DENIED, StatusCode.NOT_FOUND}, theirs
    wrong = {}
    for name, (ask, least) in CALLS.items():
        allowed = least is None or (role is not None and role.covers(least))
        code = outcome(ask, caller)
        if code is not (StatusCode.OK if allowed else StatusCode.PERMISSION_DENIED):
            wrong[name] = code
    assert not wrong


def test_they_are_all_there_are(served: Served) -> None:
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["Orchestrator"].methods}
    assert NAME == "cumulus.v1.Orchestrator"
    # In a session: tests/server/grpc/test_sessions.py.
    assert methods - {*CALLS, *THEIRS} == {"Call"}


def test_ann_has_it_all(anns: Served) -> None:
    assert all(outcome(ask, anns.by(ANN)) is StatusCode.OK for ask in THEIRS.values())
    assert b"".join(chunk.data for chunk in anns.by(ANN).Logs(pb.LogsRequest(job=ref()))) == b"hers\n"
    header, *data = anns.by(ANN).Result(pb.ResultRequest(job=ref()))
    assert json.loads(header.header.outcome)["outcome"] == "Returned"
    assert b"".join(chunk.data for chunk in data) == CONTENT
