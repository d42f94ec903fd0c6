"""The store's file: its tables, how it is made, opened and checked.

`log` is the append-only sequence of revisions; a row goes only in compaction. `current` maps each object that is
there to its newest row, `owners` each owner's uid to what it owns. So a write touches two B-trees, and a list
at an old revision is today's list with the objects that changed since put back (`log.previous`).
The newest revision is the greater of the log's last and `meta.compacted`.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cumulus.errors import StoreUnavailable
from cumulus.lib import files, sqlite_file
from cumulus.lib.sqlite_file import pragma
from cumulus.store.rules import new_uid
from cumulus.store.sqlite_errors import RESTORE, translated

FILE = "cumulus.db"
RESTORING = "restoring"
"""A file that is there while a restore swaps the store: opening is refused then."""

APPLICATION_ID = 0x43554D55
"""'CUMU' in the SQLite header: this file is ours."""
VERSION = 1
"""Of the schema below; in the header as user_version."""

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('compacted', 0);
CREATE TABLE log (
    revision INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,      -- milliseconds since 1970
    type INTEGER NOT NULL,      -- 1 added, 2 modified, 3 deleted
    previous INTEGER NOT NULL,  -- the revision this one replaced, 0 for a new object
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    document BLOB NOT NULL,
    checksum INTEGER NOT NULL   -- CRC-32 of revision, type, previous and document
);
CREATE TABLE current (
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) WITHOUT ROWID;
CREATE TABLE owners (
    uid TEXT NOT NULL,
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (uid, kind, namespace, name)
) WITHOUT ROWID;
"""


def make_directory(directory: Path) -> None:
    """Make the directory (mode 0700) where it is missing. Raises StoreUnavailable."""
    with translated(directory):
        missing = [place for place in (directory, *directory.parents) if not place.exists()]
        if missing:
            directory.mkdir(parents=True, mode=0o700, exist_ok=True)
        for made in missing:
            files.sync_directory(made.parent)
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(directory))


def prepare(directory: Path) -> Path:
    """The store's file, made where there is none. Raises StoreUnavailable.

    The file is never opened but by SQLite: closing it would drop the locks that this process's other connections
    hold on it (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    file = directory / FILE
    with translated(file):
        if (directory / RESTORING).exists():
            raise StoreUnavailable(f"a restore into {directory} was interrupted", hint="run `cumulus restore` again")
        if not file.exists():
            _refuse_orphaned_log(file)
            _create(file)
        if not file.stat().st_size:
            raise StoreUnavailable(f"{file} is empty: it was cut off", hint=RESTORE)
    return file


def connect(file: Path, *, write: bool, busy_seconds: float, immutable: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode with the store's settings, its header checked. Raises StoreUnavailable."""
    pragmas = ["synchronous = FULL", "cache_size = -4000", "temp_store = MEMORY"]
    if write:
        pragmas.append(f"journal_size_limit = {64 << 20}")
    with translated(file):
        connection = sqlite_file.connect(
            file, busy_seconds=busy_seconds, write=write, immutable=immutable, pragmas=pragmas
        )
        try:
            check_version(connection, file)
        except BaseException:
            connection.close()
            raise
    return connection


def check_version(connection: sqlite3.Connection, file: Path) -> None:
    """Raises StoreUnavailable for another program's file and for a schema that this version cannot read."""
    application = pragma(connection, "application_id")
    version = pragma(connection, "user_version")
    if application != APPLICATION_ID:
        raise StoreUnavailable(
            f"{file} is an SQLite file of another program", hint="move it away or set CUMULUS_HOME elsewhere"
        )
    if version > VERSION:
        raise StoreUnavailable(
            f"{file} has schema {version}; this version of cumulus knows schemas up to {VERSION}",
            hint="upgrade cumulus, or restore a backup that this version made",
        )
    if version < 1:
        raise StoreUnavailable(f"{file} has schema {version}, which no version of cumulus wrote", hint=RESTORE)


def check_tables(connection: sqlite3.Connection, file: Path) -> None:
    """A cheap look for damage: every table is there, and the ends of the log and of `current` can be read."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    missing = {"meta", "log", "current", "owners"} - tables
    if missing or connection.execute("SELECT value FROM meta WHERE name = 'compacted'").fetchone() is None:
        raise StoreUnavailable(f"{file} is damaged: {', '.join(sorted(missing)) or 'meta'} is missing", hint=RESTORE)
    for query in (
        "SELECT * FROM log ORDER BY revision DESC LIMIT 1",
        "SELECT * FROM log ORDER BY revision LIMIT 1",
        "SELECT * FROM current LIMIT 1",
    ):
        connection.execute(query).fetchall()


@contextmanager
def aside(file: Path) -> Iterator[Path]:
    """A new, empty, private file beside `file`, gone afterwards unless it was renamed. Raises StoreUnavailable."""
    made = file.with_name(f".{file.name}-{new_uid()}")
    with translated(made):
        os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            yield made
        finally:
            for suffix in ("", "-wal", "-shm", "-journal"):
                Path(f"{made}{suffix}").unlink(missing_ok=True)


def _create(file: Path) -> None:
    """Make the whole file aside and link it into place, so that no other process ever sees half of it."""
    with aside(file) as made:
        with closing(sqlite3.connect(made, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; {_TABLES} COMMIT;"
            )
            connection.execute("PRAGMA journal_mode = WAL")
        try:
            os.link(made, file)
        except FileExistsError:
            return
        files.sync_directory(file.parent)


def _refuse_orphaned_log(file: Path) -> None:
    """A write-ahead log without its file means that the file was removed: a new store would hide that."""
    log = Path(f"{file}-wal")
    if log.exists() and log.stat().st_size:
        raise StoreUnavailable(f"{file} is gone, but its write-ahead log is there", hint=RESTORE)
