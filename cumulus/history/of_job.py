"""How one job used its leases, for sparklines."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from cumulus.answers.history import UseSeries
from cumulus.history.series import Series

MOST = 100
"""Leases that are told of, the newest ones."""


def series(db: sqlite3.Connection, namespace: str, job: str) -> Iterator[UseSeries]:
    """The newest lease first. One that was never sampled has no points."""
    rows = db.execute(
        "SELECT node.text, d.number, d.name, l.attempt, l.replica, l.start, l.ended, l.share, l.memory, s.first, "
        "s.step, s.samples FROM leases l JOIN devices d ON d.id = l.device JOIN names node ON node.id = d.node "
        "LEFT JOIN series s ON s.lease = l.id WHERE l.namespace = (SELECT id FROM names WHERE text = ?) "
        "AND NOT l.parked AND l.job = (SELECT id FROM names WHERE text = ?) ORDER BY l.start DESC, l.id DESC LIMIT ?",
        (namespace, job, MOST),
    )
    for node, device, name, attempt, replica, start, ended, share, memory, first, step, samples in rows:
        found = Series(first, step, samples) if samples else Series(start, 60_000)
        yield UseSeries(
            node=node, device=device, deviceName=name, attempt=attempt, replica=replica, start=start, end=ended,
            share=share / 1000, memoryBytes=memory, first=found.first, step=found.step, used=found.used,
            busy=found.busy,
        )  # fmt: skip
