"""What clients of one version and the server said to each other, byte by byte, so that later servers understand them.

`python -m tests.server.grpc.wire tests/server/grpc/wire-2` records the next version: after a change that old clients
must not notice nothing is recorded anew, since `test_wire` replays what is there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from cumulus.blob.base import owner_of
from cumulus.resources.key import Key
from cumulus.rpc import orchestrator_pb2 as pb
from tests.documents import ago
from tests.server.grpc.conftest import ANN, Served, opened
from tests.waiting import PATIENCE

PAYLOAD, RESULT = b"a pickle of a call", b"a pickle of its value"
TRAIN = pb.JobRef(namespace="team", name="train")
GONE = pb.JobRef(namespace="team", name="gone")
_JOB = {
    "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob", "metadata": {"name": "train", "namespace": "team"},
    "spec": {
        "call": {"payload": hashlib.sha256(PAYLOAD).hexdigest(), "python": "3.11", "attended": "30s"},
        "gpu": {"memory": "50%", "duration": "1h"},
    },
}  # fmt: skip


class Exchange(NamedTuple):
    """One RPC: what was sent, what came, and how it ended. `before`: what happened first, in `HAPPENS`."""

    method: str
    requests: Sequence[bytes]
    responses: Sequence[bytes] = ()
    code: str = "OK"
    error: bytes = b""
    before: str = ""


def _finish(served: Served) -> None:
    sha256 = hashlib.sha256(RESULT).hexdigest()
    served.outside.blobs.write(owner_of(ANN), sha256, len(RESULT), [RESULT])
    served.outside.logs.chunks = {(1, 0): [b"one\n", b"two\n"]}
    found = served.store.get(Key("GPUJob", "team", "train"))
    attempt = {"number": 1, "node": "n", "startTime": ago(minutes=5), "endTime": ago(minutes=4), "reason": "Completed"}
    call = {"outcome": "Returned", "result": sha256, "resultSize": len(RESULT), "signature": "0" * 64}
    status = {**found["status"], "phase": "Succeeded", "attempts": [attempt], "call": call}
    served.store.update_status({**found, "status": status})


HAPPENS: dict[str, Callable[[Served], None]] = {"": lambda served: None, "the call returns": _finish}


def said() -> list[Exchange]:
    """What a client of this version says."""
    header = pb.BlobHeader(sha256=hashlib.sha256(PAYLOAD).hexdigest(), size=len(PAYLOAD))
    submit = pb.SubmitRequest(idempotency_key="k1", object=json.dumps(_JOB, sort_keys=True).encode())
    other = pb.SubmitRequest(idempotency_key="k1", object=b'{"kind": "GPUJob", "metadata": {"name": "x"}}')
    wrong = json.dumps({**_JOB, "spec": {**_JOB["spec"], "replicas": 0}}).encode()  # type: ignore[dict-item]
    steps: list[tuple[str, list[Any], str]] = [
        ("FindBlobs", [pb.FindBlobsRequest(blobs=[header])], ""),
        ("PutBlob", [pb.PutBlobRequest(header=header), pb.PutBlobRequest(data=PAYLOAD)], ""),
        ("FindBlobs", [pb.FindBlobsRequest(blobs=[header])], ""),
        ("Submit", [submit], ""),
        ("Submit", [submit], ""),
        ("Submit", [other], ""),
        ("Submit", [pb.SubmitRequest(idempotency_key="k2", object=wrong)], ""),
        ("Get", [pb.GetRequest(job=TRAIN)], ""),
        ("Get", [pb.GetRequest(job=GONE)], ""),
        ("List", [pb.ListRequest(namespace="team", limit=10)], ""),
        ("Attend", [pb.AttendRequest(job=TRAIN)], ""),
        ("Result", [pb.ResultRequest(job=TRAIN, timeout=0.01)], ""),
        ("Watch", [pb.WatchRequest(job=TRAIN)], "the call returns"),
        ("Result", [pb.ResultRequest(job=TRAIN)], ""),
        ("Logs", [pb.LogsRequest(job=TRAIN, follow=True)], ""),
        ("Logs", [pb.LogsRequest(job=TRAIN, position="1.4")], ""),
        ("GetBlob", [pb.GetBlobRequest(sha256=header.sha256, offset=2)], ""),
        ("Call", [pb.CallRequest(start=pb.CallStart(job=TRAIN, id=1, size=1, data=b"x"))], ""),
        ("Cancel", [pb.CancelRequest(job=TRAIN)], ""),
        ("Submit", [submit], ""),
    ]  # fmt: skip
    return [
        Exchange(name, [r.SerializeToString() for r in requests], before=before) for name, requests, before in steps
    ]


def replayed(served: Served, exchanges: Sequence[Exchange]) -> Iterator[Exchange]:
    """The same requests, and what comes of them now."""
    channel = served.by(ANN).channel
    for each in exchanges:
        HAPPENS[each.before](served)
        responses, code, error = [], "OK", b""
        try:
            path = f"/cumulus.v1.Orchestrator/{each.method}"
            streams = each.method in ("PutBlob", "Call")
            call = (channel.stream_stream if streams else channel.unary_stream)(path)
            for response in call(iter(each.requests) if streams else each.requests[0], timeout=PATIENCE):
                responses.append(response)
        except grpc.RpcError as ended:
            failed: Any = ended
            code, error = failed.code().name, dict(failed.trailing_metadata()).get("cumulus-error-bin", b"")
        yield each._replace(responses=responses, code=code, error=error)


def write(directory: Path, exchanges: Sequence[Exchange]) -> None:
    directory.mkdir()
    (directory / "descriptor.bin").write_bytes(pb.DESCRIPTOR.serialized_pb)
    lines = [json.dumps({name: _text(value) for name, value in each._asdict().items()}) for each in exchanges]
    (directory / "exchanges.jsonl").write_text("\n".join(lines) + "\n")


def read(directory: Path) -> list[Exchange]:
    found = [json.loads(line) for line in (directory / "exchanges.jsonl").read_text().splitlines()]
    return [
        Exchange(
            each["method"], [*map(base64.b64decode, each["requests"])], [*map(base64.b64decode, each["responses"])],
            each["code"], base64.b64decode(each["error"]), each["before"],
        )
        for each in found
    ]  # fmt: skip


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value if isinstance(value, str) else [_text(each) for each in value]


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, opened(Path(directory)) as served:
        write(Path(sys.argv[1]), list(replayed(served, said())))


if __name__ == "__main__":
    main()
