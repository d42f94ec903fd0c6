"""The ledger's directory: which one it is, and who may write there."""

from __future__ import annotations

import os
from pathlib import Path

from cumulus.chronos.contract.variables import HOME
from cumulus.chronos.settings import LocalSettings
from cumulus.errors import LedgerUnavailable
from cumulus.lib.private import why_not_private

SYSTEM_HOME = Path("/var/lib/chronos")
LEDGER = "ledger.db"
"""The ledger's file in its home."""


def default_home() -> Path:
    """CHRONOS_HOME; else /var/lib/chronos where it is or can be made writable; else the user's state directory."""
    settings = LocalSettings.read()
    if settings.home is not None:
        return settings.home
    if os.access(SYSTEM_HOME if SYSTEM_HOME.exists() else SYSTEM_HOME.parent, os.W_OK | os.X_OK):
        return SYSTEM_HOME
    return settings.state_home / "chronos"


def check_private(home: Path) -> None:
    """Raises `LedgerUnavailable` where others may write to the directory: they could put another ledger, or another
    monitor's files, in its place. Raises OSError."""
    if problem := why_not_private(home, "ledger", HOME):
        raise LedgerUnavailable(problem[0], hint=problem[1])
