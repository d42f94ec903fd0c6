"""Leases that end, nodes that fall silent, engines that die: never two holders, no job lost, nothing left over."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.swarm.control import Control, job
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

LOOP = "trap 'echo stopped; exit 143' TERM; echo up; while :; do sleep 0.1; done"


@pytest.fixture
def control(kept: Control) -> Control:
    return kept


def on(place: str) -> dict[str, Any]:
    """What pins a job to a node of the lab."""
    return {"selector": {"nodeLabels": {"place": place}}}


def running(control: Control, name: str) -> None:
    control.ok("wait", f"gpujob/{name}", "--for=condition=Running", "--timeout=200s")


def counting(control: Control) -> None:
    """Until the nodes know that the programs have started: a lease counts from then, so it ends soon."""
    eventually(lambda: all(p["status"].get("startedAt") for p in control.items("partitions")), 150)


def of_job(node: Node, name: str) -> bool:
    """Whether a process of the job's containers lives on the node, seen past engine and manager."""
    return node.has_process(f"CUMULUS_JOB={name}\0")


def settled(control: Control) -> None:
    """Exact accounting: no service, no live lease is left."""
    eventually(lambda: not control.services(), 150, "no service is left")
    eventually(lambda: not control.all_leases(), 150, "no lease is left")


def test_a_lease_ends_its_container_and_the_job_goes_on_elsewhere(control: Control, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    script = (
        "trap 'echo saved >> /ckpt/state; exit 143' TERM;"
        "if [ -e /ckpt/state ]; then echo resumed; exit 0; fi; echo fresh; while :; do sleep 0.1; done"
    )
    mount = {"source": str(shared), "target": "/ckpt"}
    # Half a minute in which its first node is paused, and half a minute to save.
    checkpoint = {"path": "/ckpt/state", "gracePeriod": "30s", "onExpiry": "Requeue"}
    control.apply(job("train", script, duration="30s", mounts=[mount], checkpoint=checkpoint))
    running(control, "train")
    first = control.attempts("train")[0]["node"]
    control.lab.manager.docker("node", "update", "--availability", "pause", first)
    try:
        control.ok("wait", "gpujob/train", "--for=condition=Succeeded", "--timeout=200s")
    finally:
        control.lab.manager.docker("node", "update", "--availability", "active", first)
    one, two = control.attempts("train")[:2]
    assert one["reason"] == "LeaseExpired"
    assert two["node"] != one["node"]
    # The node's monitor and the engine both send the signal: a shell that hears both saves twice.
    assert set((shared / "state").read_text().split()) == {"saved"}
    assert control.ok("logs", "train", "--attempt", "1").startswith("fresh\n")
    assert control.ok("logs", "train") == "resumed\n"
    settled(control)


def test_a_lease_ends_its_container_with_no_daemon(control: Control) -> None:
    control.apply(job("alone", LOOP, duration="60s", gpu=on("worker1")))
    running(control, "alone")
    counting(control)
    control.daemons[-1].send_signal(signal.SIGKILL)
    control.daemons[-1].wait()
    worker = control.lab.nodes["worker1"]
    assert of_job(worker, "alone")
    eventually(lambda: not of_job(worker, "alone"), 150, "the node ended the container by itself")
    control.serve()
    control.ok("wait", "gpujob/alone", "--for=condition=Failed", "--timeout=200s")
    assert control.attempts("alone")[0]["reason"] == "LeaseExpired"
    settled(control)


def test_a_gang_of_three_over_two_workers(control: Control) -> None:
    control.lab.manager.docker("node", "update", "--availability", "pause", "manager")
    try:
        eventually(lambda: "container" not in control.get("node", "manager")["status"]["runtimes"], 150)
        control.apply(job("gang", "echo $CUMULUS_REPLICA of $CUMULUS_REPLICAS; sleep 3", replicas=3, memory="40%"))
        control.ok("wait", "gpujob/gang", "--for=condition=Succeeded", "--timeout=200s")
    finally:
        control.lab.manager.docker("node", "update", "--availability", "active", "manager")
    [attempt] = control.attempts("gang")
    assert sorted(attempt["nodes"])[0] == "worker1"
    assert set(attempt["nodes"]) == {"worker1", "worker2"}
    for replica in range(3):
        assert control.ok("logs", "gang", "--replica", str(replica)) == f"{replica} of 3\n"
    settled(control)


def test_a_worker_that_was_cut_off_keeps_its_job_until_its_lease_is_over(control: Control, whole: Lab) -> None:
    worker = whole.nodes["worker1"]
    control.apply(job("cut", LOOP, duration="100s", gpu=on("worker1"), retry={"limit": 0}))
    running(control, "cut")
    counting(control)
    worker.cut()
    eventually(lambda: "worker1" not in whole.ready(), 150, "Swarm takes the worker for down")
    assert of_job(worker, "cut"), "its container goes on (moby#39028)"
    assert control.phase("cut") == "Running", "unreachable is not dead"
    eventually(lambda: not of_job(worker, "cut"), 150, "the worker ended the container with its lease")
    worker.heal()
    control.ok("wait", "gpujob/cut", "--for=condition=Failed", "--timeout=200s")
    assert len(control.attempts("cut")) == 1
    settled(control)


def test_a_worker_that_comes_back_in_time_is_never_leased_twice(control: Control, whole: Lab) -> None:
    worker = whole.nodes["worker1"]
    control.apply(job("back", LOOP, duration="300s", gpu=on("worker1")))
    running(control, "back")
    worker.cut()
    eventually(lambda: "worker1" not in whole.ready(), 150, "Swarm takes the worker for down")
    worker.heal()
    eventually(lambda: "worker1" in whole.ready(), 150, "it is back")
    # Swarm ends the container then: it had given the task up. The job goes on as a new attempt.
    eventually(lambda: len(control.attempts("back")) > 1, 150, "a new attempt was begun")
    running(control, "back")
    assert control.attempts("back")[0]["reason"] in ("Lost", "Stopped")
    assert len(control.containers("back")) == 1
    control.ok("delete", "job", "back")
    settled(control)


def test_a_worker_that_lost_its_power_fails_nobody(control: Control, whole: Lab) -> None:
    worker = whole.nodes["worker2"]
    script = "[ $CUMULUS_ATTEMPT != 1 ] || sleep 60; echo done"
    control.apply(job("power", script, duration="60s", gpu=on("worker2")))
    running(control, "power")
    worker.power_off()
    eventually(lambda: "worker2" not in whole.ready(), 150, "Swarm takes the worker for down")
    worker.boot()
    control.ok("wait", "gpujob/power", "--for=condition=Succeeded", "--timeout=200s")
    attempts = control.attempts("power")
    assert [a["reason"] for a in attempts][-1] == "Completed"
    assert len(attempts) == 2
    settled(control)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_engine_that_ends_fails_nobody(control: Control, whole: Lab, how: signal.Signals) -> None:
    worker = whole.nodes["worker1"]
    script = f"echo attempt $CUMULUS_ATTEMPT; [ $CUMULUS_ATTEMPT != 1 ] || {{ {LOOP}; }}"
    control.apply(job("engine", script, duration="300s", gpu=on("worker1"), retry={"limit": 0}))
    running(control, "engine")
    worker.kill_engine(how)
    worker.start_engine()
    control.ok("wait", "gpujob/engine", "--for=condition=Succeeded", "--timeout=200s")
    assert [a["reason"] for a in control.attempts("engine")] == ["Lost", "Completed"]
    uid = control.get("job", "engine")["metadata"]["uid"]
    told = {"Lost", uid}
    eventually(lambda: any(told <= {e["reason"], e["involvedObject"]["uid"]} for e in control.items("events")))
    assert control.ok("logs", "engine", "--attempt", "1").startswith("attempt 1\nup\n")
    settled(control)


def test_the_managers_engine_may_be_restarted(control: Control, whole: Lab) -> None:
    control.apply(job("manager", "sleep 10; echo done", duration="300s", gpu=on("worker1")))
    running(control, "manager")
    whole.manager.kill_engine(signal.SIGTERM)
    time.sleep(2)
    whole.manager.start_engine()
    control.ok("wait", "gpujob/manager", "--for=condition=Succeeded", "--timeout=200s")
    assert control.ok("logs", "manager") == "done\n"
    assert len(control.attempts("manager")) == 1
    settled(control)


def test_a_container_is_asked_for_a_checkpoint_and_the_job_goes_on_on_another_node(
    control: Control, tmp_path: Path
) -> None:
    """The node writes the request into the container before Swarm sends the signal."""
    kept = tmp_path / "shared"
    kept.mkdir()
    mount = {"source": str(kept), "target": "/ckpt"}
    script = (
        'stop() { cat "$CUMULUS_CHECKPOINT_REQUEST" > /ckpt/reason; echo "$n" > /ckpt/state; exit 75; }; '
        'trap stop TERM; while [ ! -e "$CUMULUS_LEASE_DEADLINE" ]; do sleep 0.1; done; '
        'cp "$CUMULUS_LEASE_DEADLINE" /ckpt/deadline; cut -d" " -f1 /proc/uptime > /ckpt/uptime; '
        'n=$(cat /ckpt/state 2>/dev/null || echo 0); echo "from $n"; '
        'while [ "$n" -lt 1000000 ]; do n=$((n+1)); echo "$n" > /ckpt/now; [ -e /ckpt/last ] && exit 0; sleep 0.1; done'
    )
    checkpoint = {"path": "/ckpt/c", "gracePeriod": "5m"}
    control.apply(job("asked", script, duration="10m", mounts=[mount], checkpoint=checkpoint))
    eventually(lambda: (kept / "now").exists() and int((kept / "now").read_text() or 0) > 5, 150, "steps")
    first = control.attempts("asked")[0]["node"]
    control.ok("suspend", "job", "asked")
    # It is not kept for its grace period.
    control.ok("wait", "gpujob/asked", "--for=condition=Suspended", "--timeout=200s")
    assert (kept / "reason").read_text() == "Suspended\n"
    left = float((kept / "deadline").read_text()) - float((kept / "uptime").read_text())
    assert 500 < left < 610
    control.ok("cordon", first)
    try:
        control.ok("resume", "job", "asked")
        (kept / "last").touch()
        control.ok("wait", "gpujob/asked", "--for=condition=Succeeded", "--timeout=200s")
    finally:
        control.ok("uncordon", first)
    attempts = control.attempts("asked")
    assert attempts[0]["reason"] == "Suspended"
    assert attempts[-1]["node"] != first
    assert control.ok("logs", "asked") == f"from {(kept / 'state').read_text()}"
    settled(control)
