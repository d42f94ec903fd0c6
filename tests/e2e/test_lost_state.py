"""The store or the ledger is removed or moved while the daemon runs: everybody says so, and nothing is done twice."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cumulus.lib import locks
from tests.commands import CHRONOS_CLI
from tests.e2e.conftest import Machine, manifest
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.daemon


def test_a_store_that_was_moved_is_neither_replaced_nor_written(machine: Machine, tmp_path: Path) -> None:
    daemon = machine.serve()
    machine.ready()
    gate = tmp_path / "gate"
    machine.apply(manifest("long", f"while [ ! -e {gate} ]; do sleep 0.1; done"))
    machine.ok("wait", "gpujob/long", "--for=condition=Running", "--timeout=150s")
    # Stopped, so that it does not end before the others have asked.
    daemon.send_signal(signal.SIGSTOP)
    eventually(lambda: locks.is_stopped(daemon.pid), what="stopped")
    store = machine.directory / "cumulus" / "store"
    store.rename(store.with_name("aside"))
    for command in (["apply", "-f", "-"], ["get", "jobs"], ["serve"], ["doctor"]):
        done = machine.run(*command, input="{apiVersion: cumulus.dev/v1alpha1, kind: GPUNode, metadata: {name: x}}\n")
        assert done.returncode == 1, command
        said = done.stdout + done.stderr
        assert f"is not the store that the daemon, process {daemon.pid}, has open" in said, command
        assert "put it back, or end the daemon and start it again" in said
    assert not store.exists()
    daemon.send_signal(signal.SIGCONT)
    assert daemon.wait(PATIENCE) == 1
    log = (machine.directory / "serve-0.log").read_text()
    assert "cumulus.db was removed while it was in use" in log.splitlines()[-1]
    store.with_name("aside").rename(store)
    gate.touch()
    machine.serve()
    machine.ok("wait", "gpujob/long", "--for=condition=Succeeded", "--timeout=150s")


def test_a_ledger_that_was_removed_makes_the_node_not_ready_until_its_leases_are_over(machine: Machine) -> None:
    machine.serve()
    machine.ready()
    machine.apply(manifest("late", "exec sleep 600", memory="100%", duration="45s"))
    machine.ok("wait", "gpujob/late", "--for=condition=Running", "--timeout=150s")
    shutil.rmtree(machine.directory / "chronos")
    create = [CHRONOS_CLI, "create", "0", "1.0", "60"]
    refused = subprocess.run(create, env=machine.env, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "was removed, moved or replaced" in refused.stderr
    [node] = machine.items("nodes")
    name = node["metadata"]["name"]

    def ready() -> dict[str, str]:
        conditions = machine.get("node", name)["status"]["conditions"]
        return next(c for c in conditions if c["type"] == "Ready")

    eventually(lambda: ready()["reason"] == "LedgerReplaced", what="not ready")
    assert ready()["status"] == "Unknown"
    # The monitor ends the job at its lease's end, and lets go. The daemon goes on with a new ledger, all by itself.
    machine.ready()
    machine.apply(manifest("next", "true", memory="100%"))
    machine.ok("wait", "gpujob/next", "--for=condition=Succeeded", "--timeout=150s")
    machine.ok("wait", "gpujob/late", "--for=condition=Failed", "--timeout=150s")
    assert subprocess.run(create, env=machine.env, capture_output=True, check=False).returncode == 0
