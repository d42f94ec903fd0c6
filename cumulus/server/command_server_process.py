"""Keeps a command server (`cumulus.cli.command_server`) running as long as the daemon does. Without it, commands only
start slower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cumulus.server.child_process import ChildProcess

RESTART_SECONDS = 5.0
_MOST_RESTART_SECONDS = 3600.0
"""Where it cannot run at all, as in a directory that takes no sockets, trying must cost nothing."""


def command_server_process(
    home: Path, environment: Mapping[str, str], *, restart_seconds: float = RESTART_SECONDS
) -> ChildProcess:
    """Of a state directory. Its commands get their callers' environment."""
    return ChildProcess(
        "command-server", "cumulus.cli.command_server", [str(home)], environment,
        restart_seconds=restart_seconds, most_restart_seconds=_MOST_RESTART_SECONDS,
    )  # fmt: skip
