"""`cumulus cluster` and the machines of the Swarm as GPUNodes, on the lab."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.lab.node import LabError, Node
from tests.swarm.control import Control, job
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]


def test_the_swarms_nodes_are_shown_and_its_settings_put_right(control: Control) -> None:
    done = control.run("cluster", "status")
    assert done.returncode == 0
    assert {"manager", "worker1", "worker2"} <= {line.split()[0] for line in done.stdout.splitlines()}
    assert "is silent for 15s" in done.stderr
    try:
        assert "right settings" in control.ok("cluster", "init")
        assert not control.run("cluster", "status").stderr
    finally:
        # The tests of nodes that fall silent wait for Swarm's own fifteen seconds.
        control.lab.manager.docker("swarm", "update", "--dispatcher-heartbeat", "5s")


def test_a_worker_is_renamed_leaves_and_joins_as_the_token_says(control: Control) -> None:
    worker = control.lab.nodes["worker2"]
    words = control.ok("cluster", "join-token").split()
    assert words[0] == "scripts/setup-worker.sh"
    _rename(worker, "renamed")
    eventually(lambda: "renamed" in control.lab.ready(), 150, "the Swarm knows the host's new name")
    eventually(lambda: _hostname(control, "worker2") == "renamed", 150, "its node was looked at since")
    assert {node["metadata"]["name"] for node in control.items("nodes")} >= {"worker1", "worker2"}
    assert not [node for node in control.items("nodes") if node["metadata"]["name"] == "renamed"]
    _rename(worker, "worker2")
    eventually(lambda: "worker2" in control.lab.ready(), 150)
    assert "gpunode.cumulus.dev/worker2 removed: it left the Swarm" in control.ok("node", "remove", "worker2")
    assert "worker2" not in control.lab.manager.docker("node", "ls", "--format", "{{.Hostname}}")
    assert worker.docker("info", "--format", "{{.Swarm.LocalNodeState}}").strip() == "inactive"
    assert "worker2" not in {node["metadata"]["name"] for node in control.items("nodes")}
    script = str(ROOT / "scripts" / "join-swarm.sh")
    _swarm_of_its_own(control, worker)
    assert "another Swarm, whose managers are " + worker.address in refused(worker, script, *words[1:], "--dry-run")
    assert "no join token" in refused(worker, script, words[1], words[2] + "x", "--dry-run")
    worker.docker("swarm", "leave", "--force")
    assert "join the Swarm" in worker.inside(script, *words[1:], "--dry-run")
    worker.inside(script, *words[1:], "--yes")
    assert "nothing is to be changed" in worker.inside(script, *words[1:], "--yes")
    control.lab.manager.docker("node", "update", "--label-add", "place=worker2", "worker2")
    control.ready()


def _swarm_of_its_own(control: Control, worker: Node) -> None:
    """Its address is one that the machine has, and is not changed unnoticed."""

    def init(address: str) -> subprocess.CompletedProcess[str]:
        return control.run("--offline", "cluster", "init", "--advertise", address, SWARM_MANAGER=worker.socket)

    asked = control.run("cluster", "init", SWARM_MANAGER=worker.socket)
    assert "`cumulus --offline …` asks the engine that it names for you" in asked.stderr
    wrong = init("10.255.255.1")
    assert wrong.returncode == 1
    assert "no interface of the engine's machine has the address 10.255.255.1" in wrong.stderr
    assert f"was made; its manager is {worker.address}" in init(worker.address).stdout
    assert f"manages a Swarm already, as {worker.address}, and" in init("10.255.255.1").stderr
    assert f"The Swarm at {worker.address} has the right settings" in init(worker.address).stdout


def refused(worker: Node, *command: str) -> str:
    with pytest.raises(LabError) as error:
        worker.inside(*command)
    return str(error.value)


def test_labels_go_both_ways(control: Control) -> None:
    manager = control.lab.manager
    manager.docker("node", "update", "--label-add", "rack=7", "worker1")
    try:
        eventually(lambda: control.get("node", "worker1")["metadata"]["labels"].get("rack") == "7", 150)
    finally:
        manager.docker("node", "update", "--label-rm", "rack", "worker1")
    device = control.get("node", "worker1")["status"]["devices"][0]

    def labels() -> str:
        return manager.docker("node", "inspect", "worker1", "--format", "{{json .Spec.Labels}}")

    eventually(lambda: f'"gpu.0.name":"{device["name"]}"' in labels() and '"gpu.count":"1"' in labels(), 150)


def test_a_node_that_is_taken_out_offers_no_containers(control: Control) -> None:
    manager = control.lab.manager
    try:
        for node, availability in (("worker1", "pause"), ("worker2", "drain")):
            manager.docker("node", "update", "--availability", availability, node)
        for node, reason in (("worker1", "Paused"), ("worker2", "Drained")):
            eventually(lambda node=node: "container" not in control.get("node", node)["status"]["runtimes"], 150)  # type: ignore[misc]
            eventually(lambda node=node, reason=reason: _why(control, node) == reason, 150)  # type: ignore[misc]
    finally:
        for node in ("worker1", "worker2"):
            manager.docker("node", "update", "--availability", "active", node)
    control.ready()


def _rename(worker: Node, name: str) -> None:
    worker.inside("hostname", name)
    worker.kill_engine(signal.SIGTERM)
    worker.start_engine()


def _hostname(control: Control, name: str) -> str:
    return str(control.get("node", name)["status"].get("hostname", ""))


def _why(control: Control, name: str) -> str:
    conditions = control.get("node", name)["status"]["conditions"]
    return str(next(c["reason"] for c in conditions if c["type"] == "ContainersReady"))


def test_a_second_control_plane_touches_nothing_until_it_adopts(control: Control, tmp_path: Path) -> None:
    """A daemon from a fresh state directory, named as the one that is there; its own jobs are never in doubt."""
    control.apply(job("first", "sleep 600", duration="300s"))
    control.ok("wait", "gpujob/first", "--for=condition=Running", "--timeout=200s")
    second = Control(control.lab, tmp_path / "second")
    second.env["SWARM_INSTANCE"] = control.env["SWARM_INSTANCE"]
    try:
        second.serve()
        second.apply(job("second", "sleep 1"))
        log = second.directory / "serve-0.log"
        eventually(lambda: "the Swarm is not ours" in log.read_text(), what="it says that the Swarm is another's")
        said = second.run("cluster", "status").stderr
        assert str(control.home) in said
        assert "cumulus cluster adopt" in said
        assert not [n for n in second.items("nodes") if n["metadata"]["name"] in control.lab.nodes], "no node is taken"
        assert second.run("cluster", "adopt").returncode == 1, "nobody confirmed it"
        assert control.phase("first") == "Running"
        assert second.phase("second") == "Pending"
        adopted = second.run("cluster", "adopt", "--yes")
        assert "1 of its services are not jobs of this store and will be ended: default-first-" in adopted.stderr
        second.ok("wait", "gpujob/second", "--for=condition=Succeeded", "--timeout=200s")
        eventually(lambda: "the Swarm is not ours" in (control.directory / "serve-0.log").read_text())
        eventually(lambda: _why(control, "worker1") == "NotOurs", what="the first one says so at its nodes")
        control.ok("cluster", "adopt", "--yes")
        control.ready()
        control.ok("delete", "job", "first")
    finally:
        second.stop()
