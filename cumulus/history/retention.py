"""Deletes what has been over for longer than it is kept."""

from __future__ import annotations

import sqlite3

BATCH = 2000
"""Leases of one transaction."""
_PAGES = 1000
"""Pages that are given back to the file system with it."""


def forget(connection: sqlite3.Connection, before: int) -> int:
    """Delete leases, promises and states of nodes that ended before the moment; how many leases went, at most `BATCH`:
    ask again then. What runs stays."""
    ids = connection.execute("SELECT id FROM leases WHERE ended < ? ORDER BY ended LIMIT ?", (before, BATCH)).fetchall()
    connection.executemany("DELETE FROM series WHERE lease = ?", ids)
    connection.executemany("DELETE FROM leases WHERE id = ?", ids)
    connection.execute("DELETE FROM promises WHERE closed < ?", (before,))
    connection.execute("DELETE FROM states WHERE ended < ?", (before,))
    connection.execute("DELETE FROM reserved WHERE ended < ?", (before,))
    if ids and len(ids) < BATCH:
        _forget_names(connection)
    connection.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
    return len(ids)


def _forget_names(connection: sqlite3.Connection) -> None:
    """Those that nothing has any more, and devices that are gone."""
    connection.execute(
        "DELETE FROM devices WHERE since < (SELECT max(since) FROM devices d "
        "WHERE d.node = devices.node AND d.number = devices.number) AND id NOT IN (SELECT device FROM leases)"
    )
    connection.execute(
        "DELETE FROM names WHERE id != 0 AND id NOT IN (SELECT namespace FROM leases UNION SELECT job FROM leases "
        "UNION SELECT owner FROM leases UNION SELECT queue FROM leases UNION SELECT namespace FROM promises "
        "UNION SELECT job FROM promises UNION SELECT owner FROM promises UNION SELECT queue FROM promises "
        "UNION SELECT node FROM devices UNION SELECT node FROM states "
        "UNION SELECT reservation FROM reserved UNION SELECT node FROM reserved UNION SELECT whose FROM reserved)"
    )
