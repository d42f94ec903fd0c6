"""The ledger's directory: which one it is, and who may write there."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from cumulus.errors import LedgerUnavailable

SYSTEM_HOME = Path("/var/lib/chronos")
LEDGER = "ledger.db"
"""The ledger's file in its home."""


def default_home() -> Path:
    """CHRONOS_HOME; else /var/lib/chronos where it is or can be made writable; else the user's state directory."""
    chosen = os.environ.get("CHRONOS_HOME")
    if chosen:
        return Path(chosen).absolute()
    if os.access(SYSTEM_HOME if SYSTEM_HOME.exists() else SYSTEM_HOME.parent, os.W_OK | os.X_OK):
        return SYSTEM_HOME
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "chronos"


def check_private(home: Path) -> None:
    """Raises `LedgerUnavailable` where everybody may write to the directory: they could put another ledger, or another
    monitor's files, in its place. Raises OSError."""
    mode = stat.S_IMODE(home.stat().st_mode)
    if mode & stat.S_IWOTH:
        raise LedgerUnavailable(
            f"{home} can be written by everybody (mode {mode:04o}): anybody could replace the ledger",
            hint=f"run: chmod go-w {shlex.quote(str(home))}, or set CHRONOS_HOME to a directory of your own",
        )
