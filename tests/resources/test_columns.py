from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus.resources.columns import Cells
from cumulus.resources.kind import Column
from cumulus.resources.kinds import gpujob, gpunode
from cumulus.resources.registry import KINDS
from tests.documents import NOW, ago, ahead, failed, job, node, running


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        ("age", ago(seconds=0), "0s"),
        ("age", ago(seconds=59.9), "59s"),
        ("age", ago(hours=3, minutes=5, seconds=6), "3h5m"),
        ("age", ahead(minutes=1), "0s"),
        ("until", ahead(minutes=90), "1h30m"),
        ("until", ago(seconds=1), "ended"),
        ("bytes", 40 * 2**30, "40Gi"),
        ("bytes", 0, "-"),
        ("millis", 250, "25%"),
        ("millis", 1, "0.1%"),
        ("text", ["process", "container"], "process,container"),
        ("text", True, "true"),
        ("text", None, "-"),
        ("text", 0, "0"),
        ("age", "yesterday", "?"),
    ],
)
def test_forms(form: str, value: object, text: str) -> None:
    assert Cells(NOW).cell(Column("X", "status.x", form), {"status": {"x": value}}) == text


def test_what_a_job_leases() -> None:
    assert gpujob.job_gpu(job("a")) == "50% for 1h"
    assert gpujob.job_gpu(job("a", gpu={"memory": "20Gi", "count": 2, "duration": "90"})) == "2x 20Gi for 1m30s"
    assert gpujob.job_gpu(job("a", gpu={"count": 2}, replicas=4)) == "4x2x 50% for 1h"


def test_where_a_job_is() -> None:
    assert gpujob.job_node(running("a")) == "gpu-1"
    gang = running("a")
    gang["status"]["attempts"][0]["nodes"] = ["gpu-1", "gpu-2", "gpu-1"]
    assert gpujob.job_node(gang) == "gpu-1,gpu-2"
    between = failed("a")
    between["status"]["phase"] = "Pending"
    assert gpujob.job_node(between) == ""


def test_how_a_node_is() -> None:
    assert gpunode.node_status(node("a"), NOW) == "Ready"
    assert gpunode.node_status(node("a", ready=False), NOW) == "NotReady"
    assert gpunode.node_status({"kind": "GPUNode"}, NOW) == "Unknown"
    assert gpunode.node_status(node("a", unschedulable=True), NOW) == "Ready,SchedulingDisabled"


@pytest.mark.parametrize("ready", [True, False])
def test_a_node_with_an_old_heartbeat_is_not_called_ready(ready: bool) -> None:
    late = node("a", ready=ready, unschedulable=True)
    late["status"]["heartbeatTime"] = ago(seconds=59)
    assert gpunode.node_status(late, NOW).startswith("Ready" if ready else "NotReady")
    late["status"]["heartbeatTime"] = ago(hours=3)
    assert gpunode.node_status(late, NOW) == "Unknown (silent for 3h),SchedulingDisabled"
    late["status"]["heartbeatTime"] = ahead(hours=3)
    assert gpunode.node_state(late, NOW) == ("Ready" if ready else "NotReady")


def test_attempts_are_those_that_started() -> None:
    waiting = job("a", status={"phase": "Pending", "attemptCount": 1, "attempts": [{"number": 1}]})
    assert gpujob.job_attempts(waiting) == "0"
    assert gpujob.job_attempts(running("a")) == "1"
    again = running("a")
    again["status"] |= {"attemptCount": 30, "attempts": [*again["status"]["attempts"], {"number": 30}]}
    assert gpujob.job_attempts(again) == "29"
    assert gpujob.job_attempts(job("a", status={})) == "0"


def test_equal_devices_are_counted_together() -> None:
    machine = node("a")
    machine["status"]["devices"] *= 8
    assert gpunode.node_devices(machine) == "8x H100 80Gi"


_FIELDS = [
    "status", "spec", "phase", "attempts", "conditions", "devices", "gpu", "memory",
    "duration", "node", "nodes", "type", "expiresAt", "metadata", "creationTimestamp", "involvedObject",
    "kind", "endTime", "replicas", "freeCompute", "name",
]  # fmt: skip
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(_FIELDS), _json))
def test_no_object_is_too_odd_to_show(document: dict[str, object]) -> None:
    cells = Cells(NOW + timedelta(0), lambda job: [document])
    for kind in KINDS:
        assert all(isinstance(cell, str) for cell in cells.row(kind.columns, document))
