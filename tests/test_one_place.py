"""What is said in one place is said so everywhere: environment variables, and the Python that is needed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from cumulus import environment

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cumulus"

OWN_PROCESS = {
    "paths.py", "cli/main.py", "cli/command_client.py", "cli/command_server.py", "cli/checks.py",
    "server/settings.py", "server/daemon.py",
}  # fmt: skip
"""What begins a process and reads its environment, or hands it on."""
PROTOCOLS = {"lib/safe_output.py", "lib/systemd.py"}
"""What implements a convention of others: NO_COLOR, TERM and COLUMNS, NOTIFY_SOCKET."""
STARTERS = {"lib/cgroup.py", "nodes/distribution.py"}
"""What starts a program that gets this process's own."""
NODES = {"nodes/connection.py"}
"""The key of SSH, which both the daemon and commands need."""


def test_nothing_below_reads_the_environment() -> None:
    readers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] != "chronos" and re.search(r"os\.(environ|getenv)", path.read_text())
    }
    assert readers == OWN_PROCESS | PROTOCOLS | STARTERS | NODES


def test_variables_are_named_in_one_place() -> None:
    names = {value for name, value in vars(environment).items() if name.isupper()}
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in ("chronos", "environment.py"):
            for literal in re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", path.read_text()):
                assert literal not in names, f"{path} names {literal}"


def test_the_scripts_need_the_python_that_the_package_needs() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    least = tuple(map(int, wanted.removeprefix(">=").split(".")))
    scripts = [*(ROOT / "scripts").iterdir(), *(PACKAGE / "nodes" / "worker").iterdir()]
    pattern = re.compile(r"version_info (?:<|>=) \((\d+), (\d+)\)")
    found = {
        path.name: {(int(major), int(minor)) for major, minor in pattern.findall(path.read_text())}
        for path in scripts
        if path.is_file()
    }
    said = {name: versions for name, versions in found.items() if versions}
    assert {"_python.sh", "setup-worker.sh", "join-swarm.sh", "chronos-runtime"} <= set(said)
    assert all(versions == {least} for versions in said.values()), said
