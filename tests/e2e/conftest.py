"""The real daemon on the real process backend: each test has its own state directories and cleans up after itself."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cumulus.chronos import watchdog
from tests import processes
from tests.commands import CHRONOS_CLI, CUMULUS
from tests.waiting import eventually


def monitor_gone(home: Path) -> None:
    """Wait for the monitor to stop by itself, as it does soon after the last lease."""
    eventually(lambda: watchdog.running(home) is None, within=30, what="the monitor stopped when it had nothing to do")


def manifest(name: str, script: str, *, memory: str = "10%", duration: str = "60s", **spec: Any) -> dict[str, Any]:
    """A job that runs a shell script."""
    return {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "GPUJob",
        "metadata": {"name": name},
        "spec": {"command": ["/bin/sh", "-c", script], "gpu": {"memory": memory, "duration": duration}, **spec},
    }


class Machine:
    """One machine's state directories, and commands on them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.env = {
            **os.environ,
            "CUMULUS_HOME": str(directory / "cumulus"),
            "CHRONOS_HOME": str(directory / "chronos"),
            "CHRONOS_MONITOR_IDLE": "1",
            "COLUMNS": "160",
        }

    def run(self, *args: str, input: str | None = None, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CUMULUS, *args], env=self.env, input=input, capture_output=True, text=True, timeout=timeout, check=False
        )

    def ok(self, *args: str, input: str | None = None, timeout: float = 90) -> str:
        done = self.run(*args, input=input, timeout=timeout)
        assert done.returncode == 0, f"cumulus {' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> str:
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        return self.ok("apply", "-f", "-", input=json.dumps(items))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("get", kind, name, "-o", "json"))
        return found

    def items(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.ok("get", kind, "-A", "-o", "json"))["items"]
        return found

    def leases(self) -> list[dict[str, Any]]:
        """Live leases, as chronos_cli lists them."""
        done = subprocess.run([CHRONOS_CLI, "list", "--json"], env=self.env, capture_output=True, text=True, check=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)["leases"]
        return found

    def serve(self) -> subprocess.Popen[bytes]:
        number = len(self.daemons)
        self.directory.mkdir(exist_ok=True)
        with open(self.directory / f"serve-{number}.log", "wb") as log:
            daemon = subprocess.Popen([CUMULUS, "serve"], env=self.env, stdout=log, stderr=subprocess.STDOUT)
        self.daemons.append(daemon)
        return daemon

    def ready(self) -> None:
        self.ok("wait", "node", "--all", "--for=condition=Ready", "--timeout=60s")

    def stop(self) -> None:
        """End the daemons, then every lease (which ends the jobs), then the monitor."""
        processes.end(self.daemons)
        for lease in self.leases():
            release = [CHRONOS_CLI, "release", lease["partitionId"]]
            subprocess.run(release, env=self.env, capture_output=True, check=False)
        eventually(lambda: not self.leases(), within=30, what="leases released at the end of the test")
        monitor_gone(self.directory / "chronos")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "m")
    try:
        yield machine
    finally:
        machine.stop()
