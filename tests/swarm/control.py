"""The real daemon on a lab: state directory, commands, and what is left on the nodes."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cumulus.chronos.home import LEDGER
from cumulus.chronos.records import LIVE
from tests import processes
from tests.daemon import DaemonBed
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.swarm.bed import IMAGE
from tests.waiting import PATIENCE, eventually

INSTANCE = "cumulus.dev/instance"


def job(name: str, script: str, *, memory: str = "10%", duration: str = "120s", **spec: Any) -> dict[str, Any]:
    """A container that runs a shell script; `selector` of nodes and more through `spec`."""
    gpu = {"memory": memory, "duration": duration, **spec.pop("gpu", {})}
    return {
        "apiVersion": "cumulus.dev/v1alpha1",
        "kind": "GPUJob",
        "metadata": {"name": name},
        "spec": {"image": IMAGE, "command": ["sh", "-c", script], "gpu": gpu, **spec},
    }


class Control(DaemonBed):
    """Daemons and commands on one state directory, with the lab's Swarm."""

    timeout = 240.0

    def __init__(self, lab: Lab, directory: Path) -> None:
        super().__init__(
            directory, COLUMNS="200", SWARM_MANAGER=lab.manager.socket, SSH_KEY_PATH=str(lab.key),
            SWARM_INSTANCE=directory.name,
        )  # fmt: skip
        self.lab = lab
        self.home = directory / "cumulus"
        self.home.mkdir(parents=True)
        shutil.copy(lab.known_hosts, self.home / "known_hosts")

    def phase(self, name: str) -> str:
        return str(self.get("job", name).get("status", {}).get("phase", ""))

    def attempts(self, name: str) -> list[dict[str, Any]]:
        return list(self.get("job", name).get("status", {}).get("attempts", ()))

    def ready(self) -> None:
        """Until every node of the Swarm takes containers."""

        def offered() -> set[str]:
            return {
                n["metadata"]["name"] for n in self.items("nodes") if "container" in n["status"].get("runtimes", ())
            }

        def missing() -> str:
            return f"these nodes take no containers yet: {', '.join(sorted(set(self.lab.nodes) - offered()))}"

        eventually(lambda: offered() == set(self.lab.nodes), 150, missing)

    def services(self) -> list[str]:
        found = self.lab.manager.docker(
            "service", "ls", "-q", "--filter", f"label={INSTANCE}={self.env['SWARM_INSTANCE']}"
        )
        return found.split()

    def leases(self, node: Node) -> list[dict[str, Any]]:
        """Live leases on the node, whoever holds them. Its chronos_cli is asked where its ledger has any: to start it
        costs as much as a command of ours, and most tests ask thrice when all are gone."""
        if not live_rows(node.chronos_home / LEDGER):
            return []
        said = node.inside(str(self.lab.directory / "bin" / "chronos_cli"), "list", "--json")
        found: list[dict[str, Any]] = json.loads(said)["leases"]
        return found

    def all_leases(self) -> list[dict[str, Any]]:
        return [lease for node in self.lab.nodes.values() for lease in self.leases(node)]

    def containers(self, name: str) -> list[tuple[str, str]]:
        """(node, container) of the job's containers that run now, as each node's kernel and engine say."""
        found = []
        for node in self.lab.nodes.values():
            for id in node.docker("ps", "-q", "--filter", f"label=cumulus.dev/job={name}").split():
                found.append((node.name, id))
        return found

    def stop(self) -> None:
        """End daemons, services and leases."""
        processes.end(self.daemons)
        for service in self.services():
            self.lab.manager.docker("service", "rm", service)
        left = [(node, lease) for node in self.lab.nodes.values() for lease in self.leases(node)]
        for node, lease in left:
            node.inside(str(self.lab.directory / "bin" / "chronos_cli"), "release", lease["partitionId"])
        if left:
            eventually(lambda: not self.all_leases(), 150, "leases released at the end of the test")


def live_rows(ledger: Path) -> int:
    """How many leases the file says are not over. Nothing is written, and nobody is kept from it."""
    if not ledger.exists():
        return 0
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=PATIENCE)) as database:
        found = database.execute(f"SELECT count(*) FROM lease WHERE {LIVE}").fetchone()[0]
    return int(found)


@contextmanager
def controlled(lab: Lab, directory: Path, **env: str) -> Iterator[Control]:
    """A daemon, leading, with every node of the lab taking containers; `env` is added to its environment."""
    control = Control(lab, directory)
    control.env |= env
    try:
        control.serve()
        control.ready()
        yield control
    finally:
        control.stop()
