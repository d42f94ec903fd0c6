"""The real daemon on state directories of its own, and commands on them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from cumulus import environment
from cumulus.cli.printers import without_managed_fields
from cumulus.client.embedded import EmbeddedClient
from cumulus.daemon_lock import daemon_pid
from cumulus.resources.key import DEFAULT_NAMESPACE, Key
from cumulus.resources.query import Query
from cumulus.resources.registry import find_kind
from tests import command_server, daemon_starter
from tests.commands import CUMULUS
from tests.processes import Process
from tests.waiting import eventually


class DaemonBed:
    """`cumulus` with CUMULUS_HOME, CHRONOS_HOME and the daemons' logs below `directory`; `env` is for all of them.

    Its daemons start what its tests ask for: a gRPC server where `serves_grpc`, and a command server of their own where
    `own_commands`, else commands are run by the one that all share."""

    serves_grpc = False
    own_commands = False

    timeout = 200.0
    """Seconds for a command."""

    def __init__(self, directory: Path, **env: str) -> None:
        self.directory = directory
        self.daemons: list[Process] = []
        self.env = {
            **os.environ,
            "CUMULUS_HOME": str(directory / "cumulus"),
            "CHRONOS_HOME": str(directory / "chronos"),
            "CHRONOS_MONITOR_IDLE": "1",
            **env,
        }

    def run(
        self, *args: str, input: str | None = None, timeout: float = 0.0, cwd: Path | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CUMULUS, *args], env=self.env | variables, input=input, capture_output=True, text=True,
            timeout=timeout or self.timeout, check=False, cwd=cwd,
        )  # fmt: skip

    def ok(self, *args: str, input: str | None = None, timeout: float = 0.0) -> str:
        done = self.run(*args, input=input, timeout=timeout)
        assert done.returncode == 0, f"cumulus {' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> str:
        return self.ok(
            "apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        )

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """As `cumulus get KIND NAME -o json` prints it. In this process, since tests ask again and again."""
        found = find_kind(kind)
        key = Key(found.name, DEFAULT_NAMESPACE if found.namespaced else "", name)
        with EmbeddedClient.of(Path(self.env["CUMULUS_HOME"])) as client:
            return without_managed_fields(client.get(key))

    def items(self, kind: str) -> list[dict[str, Any]]:
        """Of all namespaces, as `get` tells each."""
        with EmbeddedClient.of(Path(self.env["CUMULUS_HOME"])) as client:
            return [without_managed_fields(each) for each in client.list(Query(find_kind(kind).name)).items]

    def serve(self) -> Process:
        """A daemon, without the cost of importing it: see `daemon_starter`."""
        return self.started(CUMULUS, "serve", loaded=daemon_starter.starts(self.env))

    def started(self, *command: str, cwd: Path | None = None, loaded: bool = False) -> Process:
        """A daemon by this command, in a process that has `loaded` it already or anew."""
        self.directory.mkdir(exist_ok=True)
        env = self.env
        if not self.own_commands and command_server.serves(env):
            command_server.share(Path(env["CUMULUS_HOME"]))
            env = env | {environment.NO_COMMAND_SERVER: "1"}
        words = [*command, *(() if self.serves_grpc else ("--grpc-listen", "off"))]
        with open(self.directory / f"serve-{len(self.daemons)}.log", "wb") as log:
            daemon: Process = (
                daemon_starter.start(words, env, cwd, log)
                if loaded
                else subprocess.Popen(words, env=env, cwd=cwd, stdout=log, stderr=subprocess.STDOUT)
            )
        self.daemons.append(daemon)
        if len(self.daemons) > 1:
            # A command gives a daemon that was killed some time to come back: too little on a busy machine.
            home = Path(env["CUMULUS_HOME"])
            begun = "the next daemon has begun"
            eventually(lambda: daemon_pid(home) is not None or daemon.poll() is not None, what=begun)
        return daemon
