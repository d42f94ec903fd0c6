"""The real daemon on the real process backend: each test has its own state directories and cleans up after itself."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cumulus.chronos import monitor_control
from cumulus.chronos.contract import wire
from cumulus.chronos.ledger import Ledger
from cumulus.client import contexts
from cumulus.client.contexts import Context
from cumulus.service.addresses import grpc_address
from tests import processes
from tests.commands import CHRONOS_CLI
from tests.daemon import DaemonBed
from tests.waiting import eventually


def monitor_gone(home: Path) -> None:
    """Wait for the monitor to stop by itself, as it does soon after the last lease."""
    eventually(lambda: monitor_control.running(home) is None, what="the monitor stopped when it had nothing to do")


def manifest(name: str, script: str, *, memory: str = "10%", duration: str = "1h", **spec: Any) -> dict[str, Any]:
    """A job that runs a shell script. Its lease outlasts what a busy machine does meanwhile."""
    return {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "GPUJob",
        "metadata": {"name": name},
        "spec": {"command": ["/bin/sh", "-c", script], "gpu": {"memory": memory, "duration": duration}, **spec},
    }


class Machine(DaemonBed):
    """One machine's state directories, and commands on them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, COLUMNS="160")

    def leases(self) -> list[dict[str, Any]]:
        """Live leases, as chronos_cli lists them. In this process, since tests ask again and again."""
        ledger = Ledger(Path(self.env["CHRONOS_HOME"]), start_monitor=False)
        try:
            return [wire.lease_json(lease) for lease in ledger.list()]
        finally:
            ledger.close()

    def ready(self) -> None:
        self.ok("wait", "node", "--all", "--for=condition=Ready", "--timeout=150s")

    def context(self) -> Context:
        """Where it answers over TLS, by which authority, and a token."""
        printed = eventually(lambda: self.run("kubeconfig").stdout, what="it answers over TLS")
        found = contexts.from_kubeconfig(json.loads(printed)).current
        assert found is not None
        return found

    def grpc(self) -> str:
        """HOST:PORT of gRPC."""
        home = self.directory / "cumulus"
        found: str = eventually(lambda: (read := grpc_address.read(home)) and read.address, what="gRPC listens")
        return found

    def stop(self) -> None:
        """End the daemons, then every lease (which ends the jobs), then the monitor."""
        processes.end(self.daemons)
        for lease in self.leases():
            release = [CHRONOS_CLI, "release", lease["partitionId"]]
            subprocess.run(release, env=self.env, capture_output=True, check=False)
        eventually(lambda: not self.leases(), what="leases released at the end of the test")
        monitor_gone(self.directory / "chronos")


M = TypeVar("M", bound=Machine)


@contextmanager
def serving(machine: M) -> Iterator[M]:
    """Its daemon runs, and its node is ready."""
    try:
        machine.serve()
        machine.ready()
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "m")
    try:
        yield machine
    finally:
        machine.stop()
