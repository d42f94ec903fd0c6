"""That the monitor which runs can park. One of a Chronos from before parking runs on for as long as a lease lives, and
knows nothing of it: nobody would ever do what is asked for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from cumulus.chronos import monitor_control
from cumulus.chronos.database import Database
from cumulus.errors import LedgerUnavailable
from cumulus.lib import processes
from cumulus.lib.processes import ProcessIdentity

_KEY = "parker"
_PATIENCE, _PAUSE = 1.0, 0.02
"""A monitor has its lock a moment before it signs; one that is told to end has it a moment longer."""


def sign(database: Database) -> None:
    """Say that this process is a monitor that can park."""
    me = processes.read(os.getpid())
    assert me is not None
    # Where the disk is full, leases are to end on time all the same.
    with suppress(LedgerUnavailable), database.write(durable=False) as tx:
        tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_KEY, f"{me.pid} {me.start}"))


def ensure(database: Database) -> None:
    """Have a monitor that cannot park end, and start another in its place: leases and jobs go on. Raises
    `LedgerUnavailable` where that does not come up."""
    home = database.home
    if not monitor_control.can_start_here():
        return
    if _within_patience(lambda: (found := _running(database)) is None or _signed(database) == found):
        return
    older = _running(database)
    if older is not None and _signed(database) != older:
        processes.send(older, signal.SIGTERM)
        processes.send(older, signal.SIGCONT)
        _within_patience(lambda: not monitor_control.is_running(home))
        monitor_control.ensure_running(home)


def _running(database: Database) -> ProcessIdentity | None:
    return monitor_control.holder(database.home) if monitor_control.is_running(database.home) else None


def _signed(database: Database) -> ProcessIdentity | None:
    with database.read() as db:
        row = db.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).fetchone()
    return ProcessIdentity(*map(int, row[0].split())) if row else None


def _within_patience(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_PAUSE)
    return True
