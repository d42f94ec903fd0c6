"""The node alone ends a container with its lease: also one that comes late, hides its variables, or ignores signals."""

from __future__ import annotations

import json
import uuid

import pytest

from cumulus.backends.base import LeaseRef
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.swarm.bed import SwarmBed
from tests.swarm.test_backend import lease

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


@pytest.fixture
def worker(swarm: Lab) -> Node:
    return swarm.nodes["worker1"]


def chronos(lab: Lab, node: Node, *words: str) -> dict[str, object]:
    said: dict[str, object] = json.loads(node.inside(str(lab.directory / "bin" / "chronos_cli"), *words, "--json"))
    return said


def granted(lab: Lab, node: Node, seconds: str, grace: str = "1s") -> LeaseRef:
    id = str(uuid.uuid4())
    chronos(lab, node, "create", "0", "10%", seconds, "--id", id, "--grace", grace)
    return lease(id, enforcement="none", device_id="cpu", device_type="cpu")


def ended(lab: Lab, node: Node, ref: LeaseRef) -> bool:
    found = chronos(lab, node, "get", ref.id)["lease"]
    return isinstance(found, dict) and found["state"] == "Ended"


def test_a_container_ends_with_its_lease(bed: SwarmBed, whole: Lab, worker: Node) -> None:
    """moby#39028: it does so with the manager gone, and the share is free only when it has ended."""
    ref = granted(bed.lab, worker, "15s")
    script = (
        "trap '' TERM; (trap '' TERM; env -i setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' &); sleep 600"
    )
    work = bed.work("sh", "-c", script, leases=(ref,))
    bed.backend.start(work)
    bed.running(work)
    worker.kill_engine()
    try:
        assert worker.has_process(ref.id)
        bed.until(lambda: ended(bed.lab, worker, ref))
        assert not worker.has_process(ref.id)
        assert not worker.has_process("while :; do sleep 1"), "nor what had left its session and its variables"
    finally:
        worker.start_engine()


def test_a_container_that_comes_late_is_ended(bed: SwarmBed, worker: Node) -> None:
    ref = granted(bed.lab, worker, "1s")
    bed.until(lambda: ended(bed.lab, worker, ref))
    work = bed.work("sleep", "600", leases=(ref,))
    bed.backend.start(work)
    end = bed.finish(work)
    assert end.exit_code == 137
