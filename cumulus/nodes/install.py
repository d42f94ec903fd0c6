"""Copies Chronos, and what copies checkpoints to S3, to a worker and sets it up there. The worker downloads nothing."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

from cumulus.errors import ChronosError, CumulusError
from cumulus.nodes import distribution, packages
from cumulus.nodes.answers import SUDO_REFUSES
from cumulus.nodes.connection import CommandResult, NodeConnection

SECONDS = 300.0
"""For the worker to set itself up: the first look at its devices may start drivers."""

SCRIPT = "setup-worker.sh"
SERVICE = "chronos-monitor.service"
WHEEL = "chronos.whl"


class SetupFailed(CumulusError):
    """The worker could not be set up; the message is what it said last."""


@dataclass(frozen=True, slots=True)
class Setup:
    """`prefix`: where to install for the SSH user alone; "" for the whole machine, as root or by sudo.
    `python`: what is to run it; "" for the first that is new enough."""

    prefix: str = ""
    python: str = ""
    dry_run: bool = False


def install(connection: NodeConnection, setup: Setup) -> str:
    """Returns what the worker said. Raises `SetupFailed`, `NodeUnreachable`."""
    place = _checked(connection, "mktemp -d", "a directory for temporary files").strip()
    try:
        files = _files()
        for name, data in files:
            _checked(connection, f"cat > {shlex.quote(f'{place}/{name}')}", f"room for {name} in {place}", data)
        answer = connection.run(_command(connection, setup, place, {name for name, _ in files}), SECONDS, again=False)
    finally:
        # What went wrong before says more than that the node cannot be reached to tidy up.
        with suppress(ChronosError):
            connection.run(f"rm -rf {shlex.quote(place)}", 15)
    if answer.status != 0:
        raise _failure(connection, answer)
    return answer.output + answer.errors


def _files() -> list[tuple[str, bytes]]:
    worker = resources.files("cumulus.nodes").joinpath("worker")
    scripts = [(name, worker.joinpath(name).read_bytes()) for name in (SCRIPT, SERVICE)]
    with TemporaryDirectory() as directory:
        archive = Path(directory) / distribution.PACKAGES
        packed = [(archive.name, archive.read_bytes())] if packages.pack(archive) else []
        return [(WHEEL, distribution.build(Path(directory)).read_bytes()), *packed, *scripts]


def _command(connection: NodeConnection, setup: Setup, place: str, files: Collection[str]) -> str:
    words = ["env", f"PYTHON={setup.python}", "sh", f"{place}/{SCRIPT}", "--yes", "--wheel", f"{place}/{WHEEL}"]
    if distribution.PACKAGES in files:
        words += ["--packages", f"{place}/{distribution.PACKAGES}"]
    if setup.dry_run:
        words.append("--dry-run")
    if setup.prefix:
        words += ["--prefix", setup.prefix]
    elif connection.address.user != "root":
        words = ["sudo", "-n", *words, "--user", connection.address.user]
    return shlex.join(words)


def _checked(connection: NodeConnection, command: str, needed: str, input: bytes = b"") -> str:
    answer = connection.run(command, 60, input=input)
    if answer.status != 0:
        raise SetupFailed(f"{connection.node} needs {needed}: {_last(answer)}")
    return answer.output


def _failure(connection: NodeConnection, answer: CommandResult) -> SetupFailed:
    said = _last(answer)
    if said.startswith(SUDO_REFUSES):
        return SetupFailed(
            f"{connection.address.user} may not set {connection.node} up: {said}",
            hint=f"have root run scripts/setup-worker.sh --user {connection.address.user} there,"
            " or give --prefix DIR to install for that user alone",
        )
    return SetupFailed(f"{connection.node} could not be set up: {said}")


def _last(answer: CommandResult) -> str:
    lines = (answer.errors.strip() or answer.output.strip()).splitlines()
    return lines[-1].removeprefix("setup-worker: ") if lines else f"exit code {answer.status}"
