"""What the monitor last saw of the node's devices, as rows of the ledger: figures, faults, processes without a lease.

Inside transactions of others, as `records`. A fault stays until the machine is started anew or an administrator has
the drivers asked again (`chronos_cli devices --refresh`), after a reset of the GPU, say.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cumulus.chronos.contract import Figures, UnleasedProcess, wire

FRESH_SECONDS = 60.0
"""What is older is not told: nobody looks any more."""

_SEEN, _FAULTS, _CLEARED = "seen", "faults", "faults-cleared"


@dataclass(frozen=True, slots=True)
class NodeFindings:
    figures: Mapping[str, Figures] = field(default_factory=dict)
    """By device id."""
    unleased: tuple[UnleasedProcess, ...] = ()


def read(db: sqlite3.Connection, now: float) -> NodeFindings:
    """At the monotonic time `now`. Faults are told also where nobody looks."""
    failed = faults(db)
    said = _value(db, _SEEN)
    figures: dict[str, Figures] = {}
    unleased: tuple[UnleasedProcess, ...] = ()
    if said is not None and 0 <= now - said["at"] < FRESH_SECONDS:
        figures = {id: wire.read_figures(fields) for id, fields in said["figures"].items()}
        unleased = tuple(map(wire.read_unleased, said["unleased"]))
    told = {id: replace(figures.get(id, Figures()), fault=text) for id, text in failed.items()}
    return NodeFindings({**figures, **told}, unleased)


def write(
    tx: sqlite3.Connection, figures: Mapping[str, Figures], unleased: Sequence[UnleasedProcess], now: float
) -> None:
    said = {
        "at": now,
        "figures": {id: wire.figures_json(replace(each, fault="")) for id, each in figures.items()},
        "unleased": [wire.unleased_json(process) for process in unleased],
    }
    _put(tx, _SEEN, said)


def faults(db: sqlite3.Connection) -> dict[str, str]:
    """What is wrong with devices that have failed, by id."""
    return dict(_value(db, _FAULTS) or {})


def record_faults(tx: sqlite3.Connection, found: Mapping[str, str]) -> None:
    _put(tx, _FAULTS, {**faults(tx), **found})


def clear_faults(tx: sqlite3.Connection, now: float) -> None:
    """Those that come after the monotonic time `now` count anew."""
    tx.execute("DELETE FROM meta WHERE key = ?", (_FAULTS,))
    _put(tx, _CLEARED, now)


def cleared(db: sqlite3.Connection) -> float:
    """When faults were cleared last, in seconds after the boot; 0 where they never were."""
    return float(_value(db, _CLEARED) or 0.0)


def _value(db: sqlite3.Connection, key: str) -> Any:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else json.loads(row[0])


def _put(tx: sqlite3.Connection, key: str, value: Any) -> None:
    tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))
