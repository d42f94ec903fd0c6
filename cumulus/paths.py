"""Where Cumulus keeps its state. Standard library only.

`CUMULUS_HOME` is all there is to set. The ledger's directory (`CHRONOS_HOME`) belongs to the machine, not to
one state directory, and is resolved by `cumulus.chronos`.
"""

from __future__ import annotations

import os

from cumulus import environment

# What starts a command must import neither typing nor pathlib: they take longer than all else that it does.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

COMMAND_SOCKET = "commands.sock"
"""Within the state directory: where a daemon's command server listens."""

API_SOCKET = "api.sock"
"""Within the state directory: where the daemon answers its own user."""
SYSTEM_HOME = "/var/lib/cumulus"
"""The state directory of the system daemon."""
SYSTEM_SOCKET = "/run/cumulus/api.sock"
"""Where the system daemon answers every user of the machine."""
GRPC_SOCKET = "grpc.sock"
"""Within the state directory: where the gRPC server answers."""
SYSTEM_GRPC_SOCKET = "/run/cumulus/grpc.sock"
"""Where that of the system daemon answers every user of the machine."""
SYSTEM_UNITS = ("/etc/systemd/system/cumulus.service", "/usr/lib/systemd/system/cumulus.service")
"""One of them is there where a system daemon is installed."""


def home() -> Path:
    """The state directory, as `home_text` finds it. May not exist yet."""
    from pathlib import Path

    return Path(home_text())


def home_text(given: str = "") -> str:
    """The state directory: `given`, else $CUMULUS_HOME, else $XDG_STATE_HOME/cumulus, else ~/.local/state/cumulus.
    Absolute. Raises OSError where a relative one is meant and the current directory is gone."""
    given = given or os.environ.get(environment.HOME, "")
    if not given:
        given = os.path.join(os.environ.get(environment.STATE_HOME) or os.path.expanduser("~/.local/state"), "cumulus")
    path = os.path.expanduser(given)
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def store_dir(home: Path) -> Path:
    """The SQLite store."""
    return home / "store"


def history_file(home: Path) -> Path:
    """What leases, promises and use were. May not exist."""
    return home / "history" / "history.db"


def process_dir(home: Path) -> Path:
    """The process backend's root: working directories, logs, exit codes."""
    return home / "process"


def swarm_dir(home: Path) -> Path:
    """What the Swarm backend remembers: what it started, how it ended, logs."""
    return home / "swarm"


def checkpoint_removals_dir(home: Path) -> Path:
    """What of the daemon's bucket is to go with jobs that were deleted."""
    return home / "checkpoint-removals"


def blobs_dir(home: Path) -> Path:
    """Blobs, where no setting says another place."""
    return home / "blobs"


def sources_dir(home: Path) -> Path:
    """Clones of the repositories of Sources, below the uid of whom they are read as."""
    return home / "sources"


def job_secrets_dir(home: Path) -> Path:
    """`NAMESPACE/NAME/KEY` files, readable by the owner alone."""
    return home / "job-secrets"


def system_secrets_dir(home: Path) -> Path:
    """`NAME/KEY` files for the daemon itself: no job can name them."""
    return home / "system-secrets"


def old_secrets_dir(home: Path) -> Path:
    """`NAME/KEY` files from before secrets had namespaces. Nothing but `cumulus secret migrate` reads them."""
    return home / "secrets"


def known_hosts(home: Path) -> Path:
    """The host keys of workers that are reached over SSH, as sshd(8) describes the file."""
    return home / "known_hosts"


def daemon_lock(home: Path) -> Path:
    """Locked by every running `serve`, for as long as it lives."""
    return home / "serve.lock"


def api_socket(home: Path) -> Path:
    """Where the daemon answers over HTTP whoever may connect."""
    return home / API_SOCKET


def api_dir(home: Path) -> Path:
    """Certificates and their keys, and the tokens' hashes; its owner's alone."""
    return home / "api"


def api_address(home: Path) -> Path:
    """Where the API listens over TLS: see `cumulus.service.addresses`."""
    return home / "api.json"


def grpc_socket(home: Path) -> Path:
    """Where the gRPC server answers whoever may connect and shows a ticket or a token."""
    return home / GRPC_SOCKET


def grpc_address(home: Path) -> Path:
    """Where the gRPC server listens: see `cumulus.service.addresses`."""
    return home / "grpc.json"


def page_address(home: Path) -> Path:
    """Where the page for browsers is served on this machine: see `cumulus.service.addresses`."""
    return home / "page.json"


def contexts_file() -> Path:
    """The servers that this user has logged in to. May not exist yet."""
    return _config_directory() / "contexts.json"


def run_options_file() -> Path:
    """This user's own defaults for `cumulus run`. May not exist."""
    return _config_directory() / "run.options"


def _config_directory() -> Path:
    from pathlib import Path

    directory = os.environ.get(environment.CONFIG_HOME) or os.path.expanduser("~/.config")
    return Path(directory, "cumulus")
