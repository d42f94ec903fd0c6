"""A Swarm backend on the lab, with a small image, whose services are all gone with the test."""

from __future__ import annotations

import hashlib
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cumulus.backends.base import CallToRun, Workload, WorkloadMount
from cumulus.backends.swarm import owner
from cumulus.backends.swarm.backend import SwarmBackend
from cumulus.backends.swarm.engine import Engine
from cumulus.backends.swarm.node_engine import ShellEngine
from cumulus.backends.swarm.task_reconciler import Timeouts
from cumulus.blob.directory import DirectoryBlobStore
from cumulus.secrets import JobSecrets
from tests.backends.conformance import Bed, Behaviour
from tests.backends.process_bed import returned
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.runner.calls import HERE, payload_of
from tests.waiting import eventually

IMAGE = "cumulus-test:1"
"""busybox, imported on every node."""
CHRONOS = f"env PYTHONPATH={Path(__file__).parents[2]} {sys.executable} -m cumulus.chronos"
"""What runs chronos_cli on a node."""


class SwarmBed(Bed):
    """`options` go to SwarmBackend."""

    def __init__(self, lab: Lab, directory: Path, **options: Any) -> None:
        self.lab = lab
        self.directory = directory
        self.instance = uuid.uuid4().hex[:8]
        self.job_secrets = JobSecrets(directory / "secrets")
        self.secrets = self.job_secrets.of("default")
        self.options = options
        self.blobs = DirectoryBlobStore(directory / "blobs")
        self.engines = {name: ShellEngine(Inside(node), CHRONOS) for name, node in lab.nodes.items()}
        self.backend: SwarmBackend = self.open()

    def open(self, engine: Engine | None = None, **more: Any) -> SwarmBackend:
        return self.another("swarm", engine, **more)

    def another(self, directory: str, engine: Engine | None = None, **more: Any) -> SwarmBackend:
        """A backend of another state directory, for the same store."""
        engine = engine or Engine([self.lab.manager.socket])
        fixed: dict[str, Any] = {
            "blobs": self.blobs, "node_engine": self.engines.get,
            "store_id": lambda: f"store-{self.instance}", "instance": self.instance,
        }  # fmt: skip
        return SwarmBackend(
            str(self.directory / directory), engine, self.job_secrets, **{**fixed, **self.options, **more}
        )

    def impatient(self, **seconds: float) -> None:
        """Open the backend anew, with these timeouts: see `Timeouts`."""
        self.options["timeouts"] = Timeouts(**seconds)
        self.reopen()

    def reopen(self) -> None:
        self.backend.close()
        self.backend = self.open()

    def workload(self, behaviour: Behaviour, *, job: str = "job", attempt: int = 1, replica: int = 0) -> Workload:
        heed = "trap 'exit 143' TERM" if behaviour.heeds_stop else "trap '' TERM"
        rounds = int(behaviour.seconds * 20)
        sleep = f"n=0; while [ $n -lt {rounds} ]; do sleep 0.05; n=$((n+1)); done; " if rounds else ""
        script = f'{heed}; printf %s "$OUTPUT"; {sleep}exit {behaviour.exit_code}'
        return self.work(
            "env", f"OUTPUT={behaviour.output}", "sh", "-c", script, job=job, attempt=attempt, replica=replica
        )

    def work(self, *command: str, job: str = "job", attempt: int = 1, replica: int = 0, **more: Any) -> Workload:
        """A workload that runs `command` on worker1."""
        fields: dict[str, Any] = {
            "name": f"default.{job}.{self.instance}-a{attempt}-r{replica}", "namespace": "default", "job": job,
            "job_uid": f"uid-{job}", "attempt": attempt, "replica": replica, "replicas": 1, "node": "worker1",
            "command": command, "leases": (), "grace": 2.0, "image": IMAGE,
            "submitter": "root", "submitter_uid": 0, "submitter_admin": True,
        }  # fmt: skip
        return Workload(**{**fields, **more})

    def call(self, *, job: str = "job") -> Workload:
        return self.calling(returned, job=job)

    def calling(self, function: Callable[..., object], *arguments: object, **more: Any) -> Workload:
        """A workload that calls the function by this machine's own Python, which the container sees."""
        payload = payload_of(function, *arguments)
        sha256 = hashlib.sha256(payload).hexdigest()
        self.blobs.write("0:root", sha256, len(payload), [payload])
        mounts = tuple(WorkloadMount(path, path, True) for path in ("/usr", "/lib", "/lib64"))
        given = {name: more.pop(name) for name in ("interpreter", "session") if name in more}
        call = CallToRun("0:root", sha256, more.pop("python", HERE), **given)
        return self.work(call=call, mounts=mounts, **more)

    def until(self, met: Callable[[], object], *, within: float = 150.0) -> None:
        eventually(met, within)

    def running(self, workload: Workload) -> None:
        super().running(workload)
        script = workload.command[-1] if workload.command else ""
        if "trap" in script:
            node = self.lab.nodes[workload.node]
            # A shell whose last command took its place is not found: it had set its traps before.
            later = time.monotonic() + 3
            self.until(
                lambda: all_heed(found := node.signals_of("sh", "-c", script)) and (found or time.monotonic() > later)
            )
        # Until the shell has printed too.
        time.sleep(0.3)

    def service(self, workload: Workload) -> dict[str, Any]:
        """Its service as Swarm has it."""
        [found] = self.backend.engine.services([f"cumulus.dev/workload={workload.name}"])
        return found

    def services(self) -> list[str]:
        """Names of the services that are left of this bed."""
        found = Engine([self.lab.manager.socket]).services([f"cumulus.dev/instance={self.instance}"])
        return [service["Spec"]["Name"] for service in found]

    def gang_parts(self) -> list[str]:
        """Names of the networks and files of gangs that are left of this bed."""
        ours = [f"cumulus.dev/instance={self.instance}", "cumulus.dev/attempt"]
        engine = Engine([self.lab.manager.socket])
        return [n["Name"] for n in engine.networks(ours)] + [c["Spec"]["Name"] for c in engine.configs(ours)]

    def close(self) -> None:
        self.backend.close()
        engine = Engine([self.lab.manager.socket])
        for service in engine.services([f"cumulus.dev/instance={self.instance}"]):
            engine.remove_service(service["ID"])
        for network in engine.networks([f"cumulus.dev/instance={self.instance}"]):
            eventually(lambda id=network["Id"]: engine.remove_network(id) or True)  # type: ignore[misc]
        for config in engine.configs([f"cumulus.dev/instance={self.instance}", "cumulus.dev/attempt"]):
            engine.remove_config(config["ID"])
        for mark in self.lab.manager.docker(
            "config", "ls", "-q", "--filter", f"name={owner.NAME}-{self.instance}"
        ).split():
            self.lab.manager.docker("config", "rm", mark)
        for secret in engine.secrets([f"cumulus.dev/instance={self.instance}"]):
            engine.remove_secret(secret["ID"])
        engine.close()


class ProgramBed(SwarmBed):
    """Its workloads have no image: they are programs of their node's own disk."""

    def work(self, *command: str, job: str = "job", attempt: int = 1, replica: int = 0, **more: Any) -> Workload:
        return super().work(*command, job=job, attempt=attempt, replica=replica, **{"image": "", **more})

    def calling(self, function: Callable[..., object], *arguments: object, **more: Any) -> Workload:
        """It needs no mounts: a program has the node's own Python."""
        return replace(super().calling(function, *arguments, **more), mounts=())


class Inside:
    """A shell on a node of the lab."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def run(self, command: str, seconds: float) -> tuple[int, str, str]:
        return self._node.shell(command, seconds)

    def relay(self, command: str) -> socket.socket:
        return self._node.talked_to(command)

    def read(self, command: str, given: bytes) -> Iterator[bytes]:
        return self._node.read(command, given)

    def feed(self, command: str, chunks: Iterable[bytes]) -> tuple[int, str, str]:
        return self._node.fed(command, b"".join(chunks))


def all_heed(masks: Sequence[int]) -> bool:
    """Whether each of them has said what it does on SIGTERM."""
    return all(mask >> (signal.SIGTERM - 1) & 1 for mask in masks)
