"""The client side as on macOS and Windows: what they lack is taken away from it, and it speaks TLS to a real daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.conftest import Machine, manifest, serving

pytestmark = [pytest.mark.daemon, pytest.mark.xdist_group("laptops")]

LAPTOP = Path(__file__).parents[1] / "laptop.py"
PLATFORMS = ("darwin", "win32")
COMMANDS = """
import io, json, sys
from cumulus.cli import command_client
from cumulus.cli.main import main

def run(*words):
    out = sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    try:
        code = main(words)
    finally:
        sys.stdout = sys.__stdout__
    return [code, out.buffer.getvalue().decode()]

answers = {}
for words in %r:
    answers[" ".join(words)] = run(*words)
# The installed program begins here.
sys.argv = ["cumulus", "--version"]
assert command_client.main() == 0
print(json.dumps(answers))
"""


PYTHON = """
from sdk.client import CumulusClient

def double(number):
    print("running")
    return 2 * number

with CumulusClient(%r, %r, project=".") as client:
    assert client.run(double, 21, gpu_memory=0.1, duration=3600) == 42
    call = client.submit(double, 2, gpu_memory=0.1, duration=3600)
    assert client.attach(call.name).result(150) == 4
    with client.session(gpu_memory=0.1, duration=3600) as session:
        assert session.run(double, 3) == 6
    assert list(client.map(double, [1, 2], workers=1, gpu_memory=0.1, duration=3600)) == [2, 4]
"""


class Server(NamedTuple):
    address: str
    grpc: str
    ca: str
    token: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Machine(tmp_path_factory.mktemp("server"))
    made.serves_grpc = True
    with serving(made) as machine:
        found = machine.context()
        yield Server(found.server, machine.grpc(), found.ca, found.token)


def laptop(platform: str, script: str, home: Path, **variables: str) -> str:
    """What the script prints there."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "COLUMNS": "160", **variables}
    done = subprocess.run(
        [sys.executable, LAPTOP, platform], input=script, env=environment, capture_output=True, text=True, timeout=300,
        cwd=home, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("platform", PLATFORMS)
def test_commands_work_over_tls(server: Server, platform: str, tmp_path: Path) -> None:
    name = f"from-{platform}"
    (tmp_path / "ca.pem").write_text(server.ca)
    (tmp_path / "job.yaml").write_text(json.dumps(manifest(name, "echo from the node")))
    commands = [
        ("login", server.address, "--ca-file", "ca.pem"),
        ("context", "list"),
        ("version",),
        ("auth", "whoami"),
        ("apply", "-f", "job.yaml"),
        ("diff", "-f", "job.yaml"),
        ("wait", f"gpujob/{name}", "--for=condition=Succeeded", "--timeout=150s"),
        ("get", "jobs,nodes"),
        ("get", "job", name, "-o", "yaml"),
        ("logs", name),
        ("logs", name, "-f"),
        ("describe", "job", name),
        ("why", name),
        ("events",),
        ("explain", "gpujob.spec.gpu"),
        ("label", "job", name, "a=b"),
        ("token", "list"),
        ("secret", "list"),
        ("delete", "job", name),
    ]
    out = laptop(platform, COMMANDS % commands, tmp_path, CUMULUS_TOKEN=server.token)
    answers = json.loads(out.splitlines()[-1])
    assert {words: code for words, (code, _) in answers.items() if code} == {}
    assert answers[f"logs {name}"][1] == answers[f"logs {name} -f"][1] == "from the node\n"
    assert "Logged in" in answers[f"login {server.address} --ca-file ca.pem"][1]
    assert name in answers["get jobs,nodes"][1]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_functions_run_from_there(server: Server, platform: str, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(server.ca)
    out = laptop(platform, PYTHON % (server.grpc, server.token), tmp_path, CUMULUS_CA_FILE=str(tmp_path / "ca.pem"))
    assert out.splitlines().count("running") >= 1


@pytest.mark.parametrize("platform", PLATFORMS)
def test_without_a_server_a_command_says_where_servers_run(platform: str, tmp_path: Path) -> None:
    script = "from cumulus.cli.main import main; import sys; sys.stderr = sys.stdout; print(main(['get', 'jobs']))"
    out = laptop(platform, script, tmp_path)
    assert "error: no server is named, and none can run on this system: nodes and servers run Linux; log in" in out
    assert out.endswith("\n1\n")


VERBS = """
from cumulus.cli.main import ON_LINUX, VERBS, load
from cumulus.errors import CumulusError
for name in VERBS:
    try:
        load(name)
    except CumulusError as error:
        print(name, error)
"""


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_verb_is_there_or_says_that_it_needs_linux(platform: str, tmp_path: Path) -> None:
    chronos = "import sys; sys.stderr = sys.stdout; from cumulus.chronos.__main__ import main; sys.exit(not main())"
    assert laptop(platform, chronos, tmp_path) == "error: leases are kept on Linux alone; chronos_cli runs on nodes\n"
    said = laptop(platform, VERBS, tmp_path).splitlines()
    assert said == [f"{verb} `cumulus {verb}` runs on Linux alone" for verb in ("serve", "doctor", "restore")]


def test_what_a_platform_lacks_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "cumulus").mkdir()
    code = """
import importlib, pathlib, sys
sys.path.insert(0, "cumulus")
for attempt in ("import fcntl", "import os; os.fork", "from socket import AF_UNIX", "import select; select.poll",
                "open('/proc/self/status')", "from cumulus.lib import locks"):
    try:
        exec(attempt, {"__name__": "cumulus.x"})
    except (ImportError, AttributeError, FileNotFoundError):
        continue
    sys.exit(f"{attempt} works")
import json, sys
assert sys.platform == "win32" and json.loads("1") == 1
"""
    laptop("win32", code, tmp_path)
