"""The audit log: a JSON line for each grant, renewal and end, in `audit.log` of the ledger's home.

The ledger queues the lines in the transaction that they tell of; the monitor writes them out. Each carries its
`seq`, which the next writer reads back after a crash, so that no line is lost or written twice.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from cumulus.chronos.database import Database

MAX_BYTES = 10 * 2**20
KEPT = 5
"""Rotated files: audit.log.1 (the latest) to audit.log.5."""

_BATCH = 1000
_TAIL = 64 * 1024


def flush(database: Database) -> int:
    """Move the queued lines to the file. Returns how many. Raises OSError and `LedgerUnavailable`."""
    with database.read() as db:
        rows = db.execute("SELECT seq, line FROM audit WHERE line <> '' ORDER BY seq LIMIT ?", (_BATCH,)).fetchall()
    if not rows:
        return 0
    path = database.home / "audit.log"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        written = _last_seq(fd)
        lines = "".join(f'{{"seq": {seq}, {line[1:]}\n' for seq, line in rows if seq > written).encode()
        if os.write(fd, lines) < len(lines):
            # The rest, from the torn line on, is written the next time.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(fd)
        full = os.fstat(fd).st_size > MAX_BYTES
    finally:
        os.close(fd)
    with database.write() as tx:
        # The last row stays, empty, so that the next one is numbered on from it.
        tx.execute("DELETE FROM audit WHERE seq < ?", (rows[-1][0],))
        tx.execute("UPDATE audit SET line = '' WHERE seq = ?", (rows[-1][0],))
    if full:
        _rotate(path)
    return len(rows)


def _last_seq(fd: int) -> int:
    """Of the last whole line; a torn last line, left by a crash, is cut off."""
    size = os.fstat(fd).st_size
    tail = os.pread(fd, _TAIL, max(0, size - _TAIL))
    whole = tail.rfind(b"\n") + 1
    os.ftruncate(fd, size - (len(tail) - whole))
    lines = tail[:whole].splitlines()
    return int(json.loads(lines[-1])["seq"]) if lines else 0


def _rotate(path: Path) -> None:
    for number in range(KEPT - 1, 0, -1):
        if (older := path.with_name(f"{path.name}.{number}")).exists():
            os.replace(older, path.with_name(f"{path.name}.{number + 1}"))
    os.replace(path, path.with_name(f"{path.name}.1"))
