"""Where Cumulus keeps its state. Standard library only.

`CUMULUS_HOME` is all there is to set. The ledger's directory (`CHRONOS_HOME`) belongs to the machine, not to
one state directory, and is resolved by `cumulus.chronos`.
"""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The state directory: $CUMULUS_HOME, else $XDG_STATE_HOME/cumulus, else ~/.local/state/cumulus. Absolute;
    may not exist yet."""
    given = os.environ.get("CUMULUS_HOME")
    if given:
        return Path(given).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "cumulus"


def store_dir(home: Path) -> Path:
    """The SQLite store."""
    return home / "store"


def process_dir(home: Path) -> Path:
    """The process backend's root: working directories, logs, exit codes."""
    return home / "process"


def swarm_dir(home: Path) -> Path:
    """What the Swarm backend remembers: what it started, how it ended, logs."""
    return home / "swarm"


def secrets_dir(home: Path) -> Path:
    """`NAME/KEY` files, readable by the owner alone."""
    return home / "secrets"


def known_hosts(home: Path) -> Path:
    """The host keys of workers that are reached over SSH, as sshd(8) describes the file."""
    return home / "known_hosts"


def daemon_lock(home: Path) -> Path:
    """Locked by every running `serve`, for as long as it lives."""
    return home / "serve.lock"
