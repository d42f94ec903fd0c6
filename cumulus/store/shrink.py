"""Returns to the disk what compaction freed, so that a store that was large once does not stay so.

SQLite keeps the pages of deleted rows for later rows. Where most of the file is idle, it is rewritten without them. The
other way, `auto_vacuum`, would make every commit write a page more.
"""

from __future__ import annotations

from cumulus.lib.sqlite_file import pragma
from cumulus.store.connections import Connections

IDLE = 16 << 20
"""Bytes that may lie idle at least, and as many as are in use: the next rows take them."""

MOST = 64 << 20
"""Bytes in use up to which a store is rewritten: a second's work, in which nobody else can write."""


def give_back(connections: Connections) -> bool:
    """Rewrite the file where that is worth it; whether it was. Raises StoreUnavailable."""
    with connections.reading() as connection:
        size, pages, free = (pragma(connection, name) for name in ("page_size", "page_count", "freelist_count"))
    if not worth_it(used=(pages - free) * size, idle=free * size):
        return False
    with connections.alone() as connection:
        connection.execute("VACUUM")
        # The file itself gets shorter when the write-ahead log is written back to it. This waits for nobody: where
        # somebody reads an older state, a later commit does it.
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return True


def worth_it(*, used: int, idle: int) -> bool:
    """Whether to rewrite a file with so many bytes in it."""
    return used <= MOST and idle > max(IDLE, used)
