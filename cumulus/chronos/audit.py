"""The audit log: a JSON line for each grant, renewal and end, in `audit.log` of the ledger's home.

The ledger queues the lines in the transaction that they tell of; the monitor writes them out. Each carries its
`seq`, which the next writer reads back after a crash, so that no line is lost or written twice.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from cumulus.chronos import records
from cumulus.chronos.contract import EndReason
from cumulus.chronos.database import Database

MAX_BYTES = 10 * 2**20
KEPT = 5
"""Rotated files: audit.log.1 (the latest) to audit.log.5."""

_QUEUED = (
    "SELECT audit.seq, time, event, lease.id, number, device_id, lease.memory_bytes, compute, user, owner,"
    " lease.token, audit.expires_at, uid FROM audit JOIN lease ON lease.id = audit.lease"
    " JOIN device ON device.id = device_id WHERE event <> '' ORDER BY audit.seq LIMIT ?"
)
_ENDS = frozenset(reason.value for reason in EndReason)
_BATCH = 200
"""Few, since the monitor ends leases meanwhile, in another thread of the same interpreter."""

_TAIL = 64 * 1024


def flush(database: Database, now: float) -> int:
    """Move all queued lines to the file, at the monotonic time `now`. Returns how many.

    Raises OSError and `LedgerUnavailable`.
    """
    moved = 0
    while (count := _flush(database, now)) == _BATCH:
        moved += count
    return moved + count


def _flush(database: Database, now: float) -> int:
    with database.read() as db:
        rows = [_line(row) for row in db.execute(_QUEUED, (_BATCH,))]
    if not rows:
        return 0
    path = database.home / "audit.log"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        written = _last_seq(fd)
        lines = "".join(f"{json.dumps(line)}\n" for line in rows if line["seq"] > written).encode()
        if os.write(fd, lines) < len(lines):
            # The rest, from the torn line on, is written the next time.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(fd)
        full = os.fstat(fd).st_size > MAX_BYTES
    finally:
        os.close(fd)
    # Not durable: where it is lost, the lines are found in the file.
    with database.write(durable=False) as tx:
        # The last row stays, empty, so that the next one is numbered on from it.
        tx.execute("DELETE FROM audit WHERE seq < ?", (rows[-1]["seq"],))
        tx.execute("UPDATE audit SET event = '' WHERE seq = ?", (rows[-1]["seq"],))
        records.remember(tx, [line["lease"] for line in rows if line["event"] in _ENDS], now)
    if full:
        _rotate(path)
    return len(rows)


def _line(row: Any) -> dict[str, Any]:
    seq, time, event, lease, number, device, memory, compute, user, owner, token, expires, uid = row
    return {
        "seq": seq,
        "time": time,
        "event": event,
        "lease": lease,
        "device": number,
        "deviceId": device,
        "memoryBytes": memory,
        "computePercent": compute / 10,
        "user": user,
        "owner": owner,
        "token": token,
        "expiresAt": expires,
        "uid": uid,
    }


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
