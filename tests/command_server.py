"""A command server that all daemons of this process's tests share: a request says all there is to know, the state
directory too. Each daemon's own would cost as much as two commands in processes of their own."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cumulus import paths
from cumulus.lib import unix_socket
from tests.waiting import eventually

_AT_THE_START = dict(os.environ)
_READ_ONCE = ("PYTHON", "LD_", "TYPER_")
"""Variables that begin so must be the same for a command and its server: see `command_client.identity`."""


def serves(environment: Mapping[str, str]) -> bool:
    """Whether it takes commands with these variables."""
    return _read_once(environment) == _read_once(_AT_THE_START)


def share(home: Path) -> None:
    """Commands on this state directory are run by it."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        (home / paths.COMMAND_SOCKET).symlink_to(_socket())


def _read_once(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_ONCE)}


@functools.cache
def _socket() -> Path:
    home = tempfile.mkdtemp(prefix="commands-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    # It ends as this process does, however that ends: with its standard input.
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "cumulus.cli.command_server", home], stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, env=_AT_THE_START, start_new_session=True,
    )  # fmt: skip
    path = Path(home) / paths.COMMAND_SOCKET
    eventually(lambda: server.poll() is not None or unix_socket.answers(str(path)), what="a command server listens")
    assert server.poll() is None, "the command server ended"
    return path
