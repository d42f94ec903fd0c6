"""Calls are counted in the gRPC server's process and told in the daemon's."""

from __future__ import annotations

import json
from contextlib import suppress

import grpc
import pytest
import structlog

from cumulus.clock import FakeClock
from cumulus.rpc import orchestrator_pb2 as pb
from cumulus.server.grpc.metering import EVENT
from cumulus.server.grpc_process import say
from cumulus.server.metrics.daemon import DaemonMetrics
from tests.server.grpc.conftest import ANN, Served
from tests.waiting import eventually


def test_calls_are_counted_by_method_and_code(served: Served) -> None:
    metrics = DaemonMetrics(served.store, FakeClock())
    for namespace in ("team", "team", "other"):
        with suppress(grpc.RpcError):
            served.by(ANN).List(pb.ListRequest(namespace=namespace))
    counts = []

    def all_counted() -> bool:
        # The last may be answered just before it is counted.
        counts.extend(served.server.metering.take())
        return sum(each[2] for each in counts) == 3

    eventually(all_counted)
    assert {each[:2] for each in counts} == {("List", "OK"), ("List", "PERMISSION_DENIED")}
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            say(metrics.grpc, json.dumps({"event": EVENT, "level": "error", "counts": counts}).encode())
        say(metrics.grpc, b'{"event": "a line", "level": "warning", "timestamp": "t", "more": 1}\n')
        say(metrics.grpc, b"E1129 from gRPC's own library\n")
    assert lines[0] == {"event": "a line", "log_level": "warning", "more": 1}
    assert [line["log_level"] for line in lines] == ["warning", "debug"]
    told = metrics.exposition()
    assert b'grpc_server_handled_total{grpc_code="OK",grpc_method="List"} 4.0' in told


@pytest.mark.parametrize("line", [b"[2026]", b'["event"]', b"3", b"null", b'"event"', b'{"event": "a"}', b"\xff", b""])
def test_a_line_that_is_none_of_ours_is_only_said(line: bytes) -> None:
    with structlog.testing.capture_logs() as lines:
        say(None, line)
    assert [each["log_level"] for each in lines] == ["debug"]
