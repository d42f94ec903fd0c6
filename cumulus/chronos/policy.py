"""The row of the ledger that says what the node does about overuse and about processes without a lease.

Inside transactions of others, as `records`.
"""

from __future__ import annotations

import json
import sqlite3

from cumulus.chronos.contract.policy import Policy, from_json, to_json

_KEY = "policy"


def read(db: sqlite3.Connection) -> Policy:
    """The node's; the default where nobody has set one."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_KEY,)).fetchone()
    return from_json(json.loads(row[0])) if row else Policy()


def write(tx: sqlite3.Connection, policy: Policy) -> None:
    tx.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_KEY, json.dumps(to_json(policy))))
