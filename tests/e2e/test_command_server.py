"""Commands by the command server of a real daemon: there soon after it leads, and gone with it however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from cumulus.cli import rehearsal
from cumulus.lib import processes
from tests.cli.conftest import SERVED
from tests.e2e.conftest import Machine, manifest
from tests.waiting import PATIENCE, eventually

pytestmark = pytest.mark.daemon


@pytest.fixture
def machine(machine: Machine) -> Machine:
    machine.own_commands = True
    return machine


def served(machine: Machine, *words: str, input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SERVED, *words], env=machine.env, input=input, capture_output=True, text=True, check=False)


def servers(machine: Machine) -> list[int]:
    """Those on this machine's state directory, and the commands that they run."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"cumulus.cli.command_server" in words and os.fsencode(machine.env["CUMULUS_HOME"]) in words:
            found.append(int(directory.name))
    return found


def at_work(machine: Machine) -> list[int]:
    """Those of them but the fork that waits for the next command."""
    return [pid for pid in servers(machine) if processes.name(pid) != rehearsal.NAME]


def ready(machine: Machine) -> None:
    eventually(lambda: served(machine, "version", "--client").returncode == 0, what="commands are served")


def test_a_job_by_served_commands(machine: Machine) -> None:
    machine.serve()
    ready(machine)
    assert served(machine, "wait", "node", "--all", "--for=condition=Ready", "--timeout=150s").returncode == 0
    applied = served(machine, "apply", "-f", "-", input=json.dumps(manifest("hello", "echo hello")))
    assert (applied.stdout, applied.stderr) == ("gpujob.cumulus.dev/hello created\n", "")
    waited = served(machine, "wait", "gpujob/hello", "--for=condition=Succeeded", "--timeout=150s")
    assert waited.stdout == "gpujob.cumulus.dev/hello condition met\n"
    assert served(machine, "logs", "hello").stdout == "hello\n"
    assert served(machine, "describe", "job", "hello").returncode == 0
    assert served(machine, "delete", "job", "hello", "--timeout=150s").returncode == 0
    log = (machine.directory / "serve-0.log").read_text().splitlines()
    assert all(line.startswith("{") for line in log), "commands write nothing into the daemon's log"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_with_its_daemon_and_a_wait_goes_on(number: int, machine: Machine) -> None:
    daemon = machine.serve()
    ready(machine)
    machine.apply(manifest("long", "exec sleep 60", memory="10%"))
    words = [*SERVED, "wait", "gpujob/long", "--for=delete", "--timeout=10m"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=machine.env, stdout=pipe, stderr=pipe, text=True) as waiting:
        try:
            assert waiting.stderr is not None
            assert waiting.stderr.readline().startswith("waiting for gpujob/long"), "the wait is served, and has begun"
            eventually(lambda: len(at_work(machine)) == 2, what="the server and the wait are left")
            daemon.send_signal(number)
            daemon.wait(PATIENCE)
            eventually(
                lambda: served(machine, "version", "--client").returncode != 0, what="no command is taken any more"
            )
            assert waiting.poll() is None
            machine.serve()
            machine.ok("delete", "job", "long", "--timeout=150s")
            assert waiting.communicate(timeout=PATIENCE)[0] == "gpujob.cumulus.dev/long deleted\n"
            assert waiting.returncode == 0
        finally:
            waiting.kill()
    machine.daemons[-1].kill()
    machine.daemons[-1].wait()
    eventually(lambda: servers(machine) == [], what="no server is left behind")
