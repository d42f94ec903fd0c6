"""Giving the disk back what compaction freed: a store that was large once must not stay so for ever.

SQLite keeps the pages of deleted rows for later rows. New stores are made so that those can be cut off in steps
(auto_vacuum = INCREMENTAL); an older one is rewritten once, where little is in it.
"""

from __future__ import annotations

import sqlite3

from cumulus.store.connections import Connections

KEPT_FREE = 4 << 20
"""Bytes that may lie idle: the next rows take them."""

_STEP = 1 << 20
"""Bytes cut off in one transaction: other writers wait for one at a time."""

_REWRITTEN = 64 << 20
"""Bytes in use up to which an older store is rewritten: a second's work, in which nobody can write."""

_INCREMENTAL = 2


def give_back(connections: Connections) -> int:
    """Cut the file, where much of it is idle. Returns how many bytes it becomes shorter. Raises StoreUnavailable."""
    with connections.reading() as connection:
        size, pages, free = (_pragma(connection, name) for name in ("page_size", "page_count", "freelist_count"))
        incremental = _pragma(connection, "auto_vacuum") == _INCREMENTAL
    excess = excessive(pages, free, size)
    if not excess:
        return 0
    if not incremental:
        if (pages - free) * size > _REWRITTEN:
            return 0
        with connections.alone() as connection:
            connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
            connection.execute("VACUUM")
        _write_back(connections)
        return free * size
    step = max(1, _STEP // size)
    for begun in range(0, excess, step):
        with connections.alone() as connection:
            # A page goes with each step of the statement, and `execute` takes one step where no row has a column.
            connection.executescript(f"PRAGMA incremental_vacuum({min(step, excess - begun)})")
    _write_back(connections)
    return excess * size


def excessive(pages: int, free: int, size: int) -> int:
    """How many of the `free` among all `pages` go: those over what is soon needed again, where it is worth it."""
    kept = max(KEPT_FREE // size, (pages - free) // 4)
    return free - kept if free > 2 * kept else 0


def _write_back(connections: Connections) -> None:
    """The file itself gets shorter when the write-ahead log is written back to it. Waits for nobody: where somebody
    reads an older state, a later commit does it."""
    with connections.reading() as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
