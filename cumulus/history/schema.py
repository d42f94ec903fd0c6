"""The history's file: its tables, how it is made, opened and read.

One row a lease, and one for each time that its program waited in main memory; numbers stand in the place of names, each
of which `names` has once. So a lease takes about two hundred bytes.
Times are milliseconds since 1970, shares ten-thousandths of a device unless something else is said.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import structlog

from cumulus.errors import StoreUnavailable
from cumulus.lib import sqlite_file
from cumulus.lib.files import new_file
from cumulus.lib.sqlite_file import Failure, pragma

_log = structlog.get_logger("cumulus.history")

APPLICATION_ID = 0x43554D48
"""'CUMH' in the SQLite header: this file is ours."""
VERSION = 1
BUSY_SECONDS = 10.0
DAMAGED = ".damaged"
"""What a file that cannot be read is kept as, beside a new one."""

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE names (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
INSERT INTO names VALUES (0, '');
CREATE TABLE devices (
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    number INTEGER NOT NULL,    -- its index on the node
    uuid TEXT NOT NULL,
    name TEXT NOT NULL,
    memory INTEGER NOT NULL,    -- bytes
    parent TEXT NOT NULL,
    since INTEGER NOT NULL,     -- the device of that number is this one since then
    UNIQUE (node, number, uuid, name, memory, parent)
);
CREATE TABLE leases (
    id INTEGER PRIMARY KEY,
    uid BLOB NOT NULL,          -- 16 bytes of a UUID, or text
    parked INTEGER NOT NULL,    -- 1: its program waited in main memory, and held no share
    device INTEGER NOT NULL,
    start INTEGER NOT NULL,
    ended INTEGER,              -- NULL: it runs
    namespace INTEGER NOT NULL,
    job INTEGER NOT NULL,
    owner INTEGER NOT NULL,     -- the user
    queue INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    replica INTEGER NOT NULL,
    memory INTEGER NOT NULL,    -- bytes
    share INTEGER NOT NULL,     -- what is counted, in thousandths
    compute INTEGER NOT NULL,   -- thousandths
    height INTEGER NOT NULL,
    place INTEGER NOT NULL,     -- where in its lane it begins
    pieces BLOB,                -- where it has several: `lanes.pack`
    begun INTEGER,              -- when its program started
    expires INTEGER,
    phase INTEGER NOT NULL,
    enforcement INTEGER NOT NULL,
    promised INTEGER,           -- the latest start that was promised
    known INTEGER NOT NULL,     -- milliseconds for which it is known how much compute it used,
    busy INTEGER NOT NULL,      -- and how many of them it used all that it leased
    told INTEGER NOT NULL,      -- the same of memory
    used INTEGER NOT NULL
);
CREATE INDEX leases_uid ON leases (uid);
CREATE INDEX leases_ended ON leases (ended);
CREATE TABLE series (
    lease INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    step INTEGER NOT NULL,
    samples BLOB NOT NULL       -- see `series`
);
CREATE TABLE promises (
    id INTEGER PRIMARY KEY,
    gang TEXT NOT NULL UNIQUE,
    namespace INTEGER NOT NULL,
    job INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    made INTEGER NOT NULL,
    latest INTEGER NOT NULL,    -- the earliest of the latest starts that it was told
    started INTEGER,
    closed INTEGER              -- when its outcome was known
);
CREATE INDEX promises_closed ON promises (closed);
CREATE TABLE states (
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    number INTEGER NOT NULL,    -- of the device; -1: the whole node
    kind INTEGER NOT NULL,      -- 1 drained, 2 down
    start INTEGER NOT NULL,
    ended INTEGER
);
CREATE INDEX states_ended ON states (ended);
CREATE TABLE reserved (
    id INTEGER PRIMARY KEY,
    reservation INTEGER NOT NULL,   -- its name
    node INTEGER NOT NULL,
    number INTEGER NOT NULL,        -- of the device
    start INTEGER NOT NULL,
    ended INTEGER NOT NULL,         -- of the next time, and while it goes on: when it is to end
    whose INTEGER NOT NULL,
    UNIQUE (reservation, node, number, start)
);
"""

PHASES = ("Bound", "Active", "Expired", "Released", "Failed", "Parked", "Unparking")
ENFORCEMENTS = ("", "none", "guarded", "hard")
DRAINED, DOWN = 1, 2


def open_file(file: Path) -> sqlite3.Connection:
    """The history, to be written by this connection alone; made where it is missing, and made anew where it is damaged.
    Raises StoreUnavailable."""
    try:
        return _open(file)
    except sqlite3.Error as error:
        if not is_damaged(file, error):
            raise unavailable(file, error) from error
    set_aside(file)
    try:
        return _open(file)
    except sqlite3.Error as error:
        raise unavailable(file, error) from error


def is_damaged(file: Path, error: sqlite3.Error) -> bool:
    return sqlite_file.failure(file, error) in (Failure.DAMAGED, Failure.NO_DATABASE)


def set_aside(file: Path) -> None:
    """A file that cannot be read any more stays for who wants to save something of it. Raises StoreUnavailable."""
    try:
        for suffix in ("-wal", "-shm"):
            Path(f"{file}{suffix}").unlink(missing_ok=True)
        os.replace(file, f"{file}{DAMAGED}")
    except OSError as error:
        raise StoreUnavailable(f"{file} is damaged, and cannot be moved away: {error.strerror}") from error
    _log.error("the history was damaged, and begins anew", file=str(file), kept_as=f"{file}{DAMAGED}")


def _open(file: Path) -> sqlite3.Connection:
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(new_file(str(file), 0o600))
        except OSError as error:
            raise StoreUnavailable(f"{file} cannot be made: {error.strerror}") from error
    # A transaction that a power cut takes is read once more from the store's log.
    connection = sqlite_file.connect(
        file, busy_seconds=BUSY_SECONDS, pragmas=("synchronous = NORMAL", "cache_size = -4000")
    )
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(
                f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
                f"{_TABLES} COMMIT;"
            )
        _check(connection, file)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, file: Path) -> None:
    if pragma(connection, "application_id") != APPLICATION_ID:
        raise StoreUnavailable(f"{file} is an SQLite file of another program", hint="move it away")
    version = pragma(connection, "user_version")
    if version > VERSION:
        raise StoreUnavailable(
            f"{file} has schema {version}; this version of cumulus knows schemas up to {VERSION}",
            hint="upgrade cumulus, or move the file away: a new history begins",
        )
    if _columns(connection) != _expected():
        raise StoreUnavailable(f"{file} has other tables: another version of cumulus made it", hint=_ANEW)


_ANEW = (
    "stop the daemon, move the file away, and start the daemon: a new history begins, and nothing else depends on it"
)


def _columns(connection: sqlite3.Connection) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {}
    for table, column in connection.execute(
        "SELECT s.name, c.name FROM sqlite_schema s, pragma_table_info(s.name) c"
        " WHERE s.type = 'table' AND s.name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    ):
        found.setdefault(table, set()).add(column)
    return found


@cache
def _expected() -> Mapping[str, set[str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_TABLES)
        return _columns(connection)


@contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection | None]:
    """A connection that sees one state; None where there is no history. Raises StoreUnavailable."""
    if not file.exists():
        yield None
        return
    try:
        with closing(sqlite_file.connect(file, busy_seconds=BUSY_SECONDS, write=os.access(file, os.W_OK))) as opened:
            opened.execute("PRAGMA query_only = 1")
            opened.execute("BEGIN")
            if not opened.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                # It is being made at this moment.
                yield None
                return
            _check(opened, file)
            yield opened
    except sqlite3.Error as error:
        raise unavailable(file, error) from error


def unavailable(file: Path, error: sqlite3.Error) -> StoreUnavailable:
    return StoreUnavailable(
        f"the history {file} cannot be used: {error}", hint=_ANEW if is_damaged(file, error) else None
    )
