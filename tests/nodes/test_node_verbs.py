"""`cumulus node` and `cumulus serve` with a worker behind a real sshd."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cumulus import environment
from cumulus.nodes.host_keys import fetch, fingerprint
from cumulus.nodes.leases import RemoteLeases
from tests.cli.conftest import Done, Run
from tests.nodes.conftest import Worker
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.ssh

CUMULUS = [sys.executable, "-m", "cumulus.cli.main"]


def address(worker: Worker) -> str:
    return str(worker.address)


def add(run: Run, worker: Worker, *words: str, name: str = "gpu-1") -> Done:
    return run("node", "add", name, "--ssh", address(worker), "--chronos-cli", worker.command, *words)


def node(run: Run, name: str = "gpu-1") -> dict[str, object]:
    found: dict[str, object] = json.loads(run("get", "node", name, "-o", "json").out)
    return found


def test_the_fingerprint_is_shown_and_nothing_is_trusted_unasked(run: Run, worker: Worker, home: Path) -> None:
    shown = fingerprint(fetch(worker.address, 5))
    refused = add(run, worker)
    assert refused.code == 1
    assert shown in refused.err
    assert "nobody can confirm it here" in refused.err
    assert not (home / "known_hosts").exists()
    assert run("get", "nodes").out == ""

    wrong = add(run, worker, "--fingerprint", "SHA256:nothing")
    assert f"shows the host key {shown}, not SHA256:nothing" in wrong.err
    assert not (home / "known_hosts").exists()

    added = add(run, worker, "--fingerprint", shown.split()[0])
    assert added.code == 0
    assert "gpunode.cumulus.dev/gpu-1 added" in added.out
    assert "answers: Chronos" in added.out
    assert (home / "known_hosts").read_text().startswith(worker.address.known_as)
    again = add(run, worker)
    assert "gpunode.cumulus.dev/gpu-1 unchanged" in again.out
    assert "is there already, as the node gpu-1" in add(run, worker, "--yes", name="gpu-2").err


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0)])
def test_a_person_is_asked(worker: Worker, home: Path, answer: str, code: int) -> None:
    outer, inner = pty.openpty()
    words = ["node", "add", "gpu-1", "--ssh", address(worker), "--chronos-cli", worker.command]
    process = subprocess.Popen([*CUMULUS, *words], stdin=inner, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    os.write(outer, f"{answer}\n".encode())
    said, _ = process.communicate(timeout=PATIENCE)
    os.close(outer)
    os.close(inner)
    assert b"Is it the same? [y/N]" in said
    assert process.returncode == code
    assert (home / "known_hosts").exists() == (code == 0)


def test_a_changed_key_is_refused(run: Run, worker: Worker, home: Path) -> None:
    assert add(run, worker, "--yes").code == 0
    worker.stop()
    worker.make_host_key()
    worker.start()
    refused = add(run, worker, "--yes")
    assert refused.code == 1
    assert f"ssh-keygen -R '{worker.address.known_as}' -f {home}/known_hosts" in refused.err


def test_setup_installs_for_one_user_and_the_node_is_reached_through_it(
    run: Run,
    worker: Worker,
    tmp_path: Path,
) -> None:
    prefix = tmp_path / "prefix"
    worker.ledger = prefix / "var/chronos"
    bare = run("node", "add", "gpu-1", "--ssh", address(worker), "--yes")
    assert "cumulus node setup gpu-1" in bare.err
    dry = run("node", "setup", "gpu-1", "--prefix", str(prefix), "--python", sys.executable, "--dry-run")
    assert "install Chronos" in dry.out
    assert not prefix.exists()
    done = run("node", "setup", "gpu-1", "--prefix", str(prefix), "--python", sys.executable)
    assert done.code == 0
    assert "Chronos is ready." in done.out
    assert "answers: Chronos" in done.out
    assert node(run)["spec"]["ssh"]["chronosCli"] == f"{prefix}/bin/chronos_cli"  # type: ignore[index]


def test_what_is_wrong_is_said_in_one_line(run: Run, worker: Worker) -> None:
    for words, said in (
        (("add", "gpu-1"), "say where the node is"),
        (("add", "gpu-1", "--ssh", "nowhere"), "is not an SSH address"),
        (("add", "GPU_1", "--ssh", "root@x"), "is not a name"),
        (("add", "gpu-1", "--ssh", "root@x", "--key-secret", "../x"), "cannot name a secret"),
        (("add", "gpu-1", "--ssh", "root@x", "--chronos-cli", "a\x1b[2J"), "holds the control character U+001B"),
        (("setup", "gpu-1"), "there is no node gpu-1"),
        (("drain", "gpu-1"), "there is no node gpu-1"),
        (("remove", "gpu-1"), "there is no node gpu-1"),
        (("add", "gpu-1", "--ssh", "root@127.0.0.1:1"), "cannot be reached: Connection refused"),
    ):
        done = run("node", *words)
        assert done.code in (1, 2)
        assert said in done.err
        assert done.err.count("error:") == 1


# --- with a daemon


@pytest.fixture
def daemon(home: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A daemon whose own ledger is idle, and that reaches the worker by what its GPUNode says."""
    monkeypatch.setenv("CHRONOS_MONITOR_IDLE", "1")
    monkeypatch.setenv(environment.NO_COMMAND_SERVER, "1")
    log = (home.parent / "serve.log").open("w")
    process = subprocess.Popen([*CUMULUS, "serve", "--grpc-listen", "off"], stdout=log, stderr=log)
    eventually(lambda: "leading" in Path(log.name).read_text())
    yield
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        log.close()


def share(run: Run, home: Path, name: str, **spec: object) -> None:
    meta = {"name": name, "namespace": "default"}
    body = {"memory": "10%", "duration": "10m", "gracePeriod": "0s", "node": "gpu-1", **spec}
    manifest = home / f"{name}.yaml"
    manifest.write_text(
        yaml.safe_dump({"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUPartition", "metadata": meta, "spec": body})
    )
    assert run("apply", "-f", str(manifest)).code == 0


@pytest.mark.daemon
def test_a_worker_from_add_to_remove(
    run: Run,
    worker: Worker,
    home: Path,
    daemon: None,
    leases: RemoteLeases,
) -> None:
    assert add(run, worker, "--yes").code == 0
    assert run("wait", "node/gpu-1", "--for=condition=Ready", "--timeout=150s").code == 0
    status = node(run)["status"]
    assert isinstance(status, dict)
    assert status["devices"]
    assert status["runtimes"] == []
    assert status["bootId"]
    assert "clockSkewSeconds" in status
    assert "gpu-1" in run("node", "list").out

    share(run, home, "mine")
    assert run("wait", "partition/mine", "--for=condition=Active", "--timeout=150s").code == 0
    assert len(leases.list()) == 1
    refused = run("node", "remove", "gpu-1")
    assert "gpu-1 holds 1 lease; end them with: cumulus node drain gpu-1 --now" in refused.err
    assert "still holds 1 lease" in run("node", "drain", "gpu-1", "--timeout", "1s").err
    assert node(run)["spec"]["unschedulable"] is True  # type: ignore[index]

    drained = run("node", "drain", "gpu-1", "--now", "--timeout", "150s")
    assert (drained.code, drained.out) == (0, "gpunode.cumulus.dev/gpu-1 drained\n")
    assert leases.list() == []
    removed = run("node", "remove", "gpu-1")
    assert (removed.code, removed.out) == (0, "gpunode.cumulus.dev/gpu-1 removed\n")
    eventually(lambda: "gpu-1" not in run("get", "nodes").out)


@pytest.mark.daemon
def test_removed_by_force_its_leases_go_on_there(
    run: Run,
    worker: Worker,
    home: Path,
    daemon: None,
    leases: RemoteLeases,
) -> None:
    assert add(run, worker, "--yes").code == 0
    assert run("wait", "node/gpu-1", "--for=condition=Ready", "--timeout=150s").code == 0
    share(run, home, "mine")
    assert run("wait", "partition/mine", "--for=condition=Active", "--timeout=150s").code == 0
    removed = run("node", "remove", "gpu-1", "--force")
    assert removed.code == 0
    assert "they go on there until their end" in removed.err
    eventually(lambda: "Failed" in run("get", "partition", "mine").out)
    assert len(leases.list()) == 1
    [lease] = leases.list()
    leases.release(lease.id)


@pytest.mark.daemon
def test_a_node_that_cannot_be_reached_says_why_at_once(run: Run, worker: Worker, home: Path, daemon: None) -> None:
    manifest = home / "node.yaml"
    spec = {"ssh": {"host": worker.address.host, "port": worker.address.port, "user": worker.address.user}}
    node = {"apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUNode", "metadata": {"name": "gpu-1"}, "spec": spec}
    manifest.write_text(yaml.safe_dump(node))
    assert run("apply", "-f", str(manifest)).code == 0
    eventually(lambda: "is not known" in run("describe", "node", "gpu-1").out)
    assert "ssh-keyscan" in run("describe", "node", "gpu-1").out
