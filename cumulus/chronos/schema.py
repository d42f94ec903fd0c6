"""The ledger's tables: how they are made, checked and brought up from an older version.

The schema itself refuses more than 100 % of a device: triggers keep the sums, CHECK constraints bound them.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cumulus.errors import LedgerUnavailable
from cumulus.lib.sqlite_file import pragma

VERSION = 2

_SCHEMA = """
CREATE TABLE device (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    present INTEGER NOT NULL,
    name TEXT NOT NULL,
    vendor TEXT NOT NULL,
    type TEXT NOT NULL,
    memory_bytes INTEGER NOT NULL CHECK (memory_bytes > 0),
    driver TEXT NOT NULL,
    platform_index INTEGER NOT NULL,
    device_index INTEGER NOT NULL,
    enforcement TEXT NOT NULL DEFAULT 'none',
    token INTEGER NOT NULL DEFAULT 0,
    used_memory INTEGER NOT NULL DEFAULT 0 CHECK (used_memory BETWEEN 0 AND memory_bytes),
    used_compute INTEGER NOT NULL DEFAULT 0 CHECK (used_compute BETWEEN 0 AND 1000)
);
CREATE TABLE lease (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    device_id TEXT NOT NULL REFERENCES device (id),
    memory_bytes INTEGER NOT NULL CHECK (memory_bytes > 0),
    compute INTEGER NOT NULL CHECK (compute BETWEEN 1 AND 1000),
    user TEXT NOT NULL,
    owner TEXT NOT NULL,
    grace REAL NOT NULL,
    seconds REAL NOT NULL,
    token INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('Active', 'Ending', 'Ended')),
    granted_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    deadline REAL NOT NULL,
    ending_since REAL,
    end_reason TEXT,
    ended_at TEXT NOT NULL DEFAULT '',
    name TEXT NOT NULL DEFAULT '',
    overuse TEXT NOT NULL DEFAULT 'Report',
    held_bytes INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE process (
    lease TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start INTEGER NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('root', 'supervisor', 'holder')),
    PRIMARY KEY (lease, pid, start)
) WITHOUT ROWID;
CREATE TABLE session (
    lease TEXT NOT NULL,
    sid INTEGER NOT NULL,
    start INTEGER NOT NULL,
    PRIMARY KEY (lease, sid)
) WITHOUT ROWID;
CREATE TABLE cgroup (
    lease TEXT NOT NULL,
    directory TEXT NOT NULL,
    PRIMARY KEY (lease, directory)
) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TRIGGER taken AFTER INSERT ON lease BEGIN
    UPDATE device SET used_memory = used_memory + new.memory_bytes, used_compute = used_compute + new.compute,
        token = max(token, new.token) WHERE id = new.device_id;
END;
CREATE TRIGGER freed AFTER UPDATE OF state ON lease WHEN new.state = 'Ended' AND old.state <> 'Ended' BEGIN
    UPDATE device SET used_memory = used_memory - old.memory_bytes, used_compute = used_compute - old.compute
        WHERE id = old.device_id;
    DELETE FROM process WHERE lease = old.id;
    DELETE FROM session WHERE lease = old.id;
END;
"""
_SINCE_2 = """
CREATE INDEX live ON lease (state, deadline) WHERE state <> 'Ended';
CREATE TABLE ended (
    since REAL NOT NULL,
    lease TEXT NOT NULL,
    PRIMARY KEY (since, lease)
) WITHOUT ROWID;
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    event TEXT NOT NULL,
    lease TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    uid INTEGER NOT NULL
);
"""
_PARKING = """
CREATE TABLE IF NOT EXISTS parking (
    lease TEXT PRIMARY KEY,
    step TEXT NOT NULL,
    freeze INTEGER NOT NULL,
    park_for REAL NOT NULL,
    began REAL NOT NULL,
    bytes INTEGER NOT NULL DEFAULT 0 CHECK (bytes >= 0),
    frozen TEXT NOT NULL DEFAULT '[]',
    unproven INTEGER NOT NULL DEFAULT 0,
    parked_at TEXT NOT NULL DEFAULT '',
    moved_in REAL NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parked_process (
    lease TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    frameworks TEXT NOT NULL,
    PRIMARY KEY (lease, pid, start)
) WITHOUT ROWID;
DROP TRIGGER freed;
CREATE TRIGGER freed AFTER UPDATE OF state ON lease WHEN new.state = 'Ended' AND old.state <> 'Ended' BEGIN
    UPDATE device SET used_memory = used_memory - (1 - old.parked) * old.memory_bytes,
        used_compute = used_compute - (1 - old.parked) * old.compute WHERE id = old.device_id;
    DELETE FROM process WHERE lease = old.id;
    DELETE FROM session WHERE lease = old.id;
    DELETE FROM parking WHERE lease = old.id;
    DELETE FROM parked_process WHERE lease = old.id;
END;
CREATE TRIGGER moved AFTER UPDATE OF parked ON lease WHEN new.parked <> old.parked BEGIN
    UPDATE device SET used_memory = used_memory + (old.parked - new.parked) * new.memory_bytes,
        used_compute = used_compute + (old.parked - new.parked) * new.compute, token = max(token, new.token)
        WHERE id = new.device_id;
END;
"""
"""A parked lease (`parked` 1) holds no share, and the trigger gives and takes it. Older versions take it for an active
one that ends when its parking does."""
_FROM_1 = f"""
DROP INDEX by_state;
DROP INDEX ended;
ALTER TABLE audit RENAME TO audit_1;
{_SINCE_2}
INSERT INTO ended SELECT coalesce(ended_since, 0), id FROM lease WHERE state = 'Ended';
INSERT INTO audit SELECT seq, json_extract(line, '$.time'), json_extract(line, '$.event'),
    json_extract(line, '$.lease'), json_extract(line, '$.expiresAt'), json_extract(line, '$.uid')
    FROM audit_1 WHERE line <> '';
INSERT INTO audit SELECT seq, '', '', '', '', 0 FROM audit_1 WHERE line = '';
DROP TABLE audit_1;
"""


_LATER_COLUMNS = {
    "name": "TEXT NOT NULL DEFAULT ''",
    "overuse": "TEXT NOT NULL DEFAULT 'Report'",
    "held_bytes": "INTEGER NOT NULL DEFAULT 0",
    "sharing": "TEXT NOT NULL DEFAULT 'Concurrent'",
    "parked": "INTEGER NOT NULL DEFAULT 0 CHECK (parked IN (0, 1))",
}
"""Of `lease`, in the order in which they came."""


def prepare(connection: sqlite3.Connection, file: Path) -> bool:
    """Make the tables where there are none, or bring them up to this version. Returns whether they were made.

    Only who holds the writers' lock may do so. Raises `LedgerUnavailable`, sqlite3.Error.
    """
    found = pragma(connection, "user_version")
    if found > VERSION:
        raise LedgerUnavailable(
            f"{file} is of ledger version {found}; this Chronos knows version {VERSION}",
            hint="upgrade Chronos on this node, or set CHRONOS_HOME to another directory",
        )
    if found == 0:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise LedgerUnavailable(
                f"{file} is a database of something else", hint="set CHRONOS_HOME to another directory"
            )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(f"BEGIN;{_SCHEMA}{_SINCE_2}PRAGMA user_version={VERSION};COMMIT;")
    elif found == 1:
        connection.executescript(f"BEGIN;{_FROM_1}PRAGMA user_version={VERSION};COMMIT;")
    there = {column for _, column, *_ in connection.execute("PRAGMA table_info(lease)")}
    for column, definition in _LATER_COLUMNS.items():
        if column not in there:
            # No version of its own: one that does not know it does without.
            connection.execute(f"ALTER TABLE lease ADD COLUMN {column} {definition}")
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'moved'").fetchone():
        connection.executescript(f"BEGIN;{_PARKING}COMMIT;")
    return found == 0
