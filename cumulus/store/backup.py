"""Copies the store to one file, and back.

A backup is a consistent copy of a live store, checked to the last object before it gets its name. A restore
puts such a file in the store's place while nobody has the store open.

Revisions stay monotone over a restore, as with etcd's `snapshot restore --bump-revision --mark-compacted`
(https://etcd.io/docs/v3.5/op-guide/recovery/): the restored store goes on far after any revision the old one can
have reached and has no history before that, so that a client with a revision from before the restore is told
`Expired` instead of being given a past that never was.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from cumulus.errors import StoreUnavailable, UsageError
from cumulus.lib import files, locks
from cumulus.store import schema, tables
from cumulus.store.connections import Connections
from cumulus.store.sqlite_errors import translated

REVISION_GAP = 1_000_000_000
"""How far a restore moves the revision on: etcd's advice, years of writes at any speed a store has."""
REPLACED = f"{schema.FILE}.replaced"
"""What a restore replaced is kept under this name until the next restore."""
BUSY_SECONDS = 10.0
_MAGIC = b"SQLite format 3\0"


def backup(store_dir: Path, file: Path) -> None:
    """Write the store in `store_dir`, which may be in use, to the new file `file`.

    Raises UsageError where `file` is there or its directory is not, StoreUnavailable where there is no store, it is
    damaged, or the disk of `file` is full; no file is left behind then.
    """
    if not (store_dir / schema.FILE).exists():
        raise StoreUnavailable(f"there is no store in {store_dir}", hint="set CUMULUS_HOME to the one to back up")
    if not file.parent.is_dir():
        raise UsageError(f"there is no directory {file.parent}", hint="make it, or name a file in another one")
    connections = Connections(store_dir, BUSY_SECONDS)
    with closing(connections), connections.reading() as source, schema.aside(file) as made:
        _copy(source, made)
        with translated(made), closing(sqlite3.connect(made, isolation_level=None)) as copy:
            # One file, without a write-ahead log beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
            tables.verify(copy)
        files.sync_file(made)
        try:
            os.link(made, file)
        except FileExistsError as error:
            raise UsageError(f"{file} is there already", hint="name a new file for each backup") from error
        files.sync_directory(file.parent)


def restore(file: Path, store_dir: Path) -> None:
    """Put the backup `file` in the place of the store in `store_dir`; what was there is kept as `REPLACED`.

    Raises StoreUnavailable where `file` is not a sound backup, or where a process has the store open. Nothing is
    changed then.
    """
    hint = "name a file that `cumulus backup` wrote"
    with translated(file):
        if not file.exists():
            raise StoreUnavailable(f"there is no {file}", hint=hint)
        if not file.is_file():
            raise StoreUnavailable(f"{file} is not a file", hint=hint)
        if not file.stat().st_size:
            raise StoreUnavailable(f"{file} is empty", hint=hint)
    schema.make_directory(store_dir)
    with closing(schema.connect(file, write=False, busy_seconds=BUSY_SECONDS)) as source:
        with translated(file):
            tables.verify(source)
        with _alone(store_dir), schema.aside(store_dir / schema.FILE) as made:
            _copy(source, made)
            _move_on(made, _newest(store_dir / schema.FILE))
            files.sync_file(made)
            _swap(made, store_dir)


def _copy(source: sqlite3.Connection, made: Path) -> None:
    with translated(made), closing(sqlite3.connect(made, isolation_level=None)) as copy:
        source.backup(copy)


def _move_on(made: Path, replaced: int) -> None:
    """Continue after every revision that this store, or the one it replaces, can have reached."""
    with translated(made), closing(sqlite3.connect(made, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = FULL")
        copy.execute("PRAGMA journal_mode = WAL")
        copy.execute("BEGIN IMMEDIATE")
        compacted, newest = tables.bounds(copy)
        tables.forget(copy, compacted, newest)
        tables.mark_compacted(copy, max(newest, replaced) + REVISION_GAP)
        copy.execute("COMMIT")


def _newest(file: Path) -> int:
    """The newest revision of the store that is replaced, 0 where it cannot be read any more. Its write-ahead
    log is written back by this."""
    with suppress(StoreUnavailable):
        if file.exists() and _looks_sound(file):
            with closing(schema.connect(file, write=True, busy_seconds=BUSY_SECONDS)) as connection, translated(file):
                return tables.bounds(connection)[1]
    return 0


def _looks_sound(file: Path) -> bool:
    """SQLite would throw away the write-ahead log of a file that is none of its own."""
    with translated(file), file.open("rb") as opened:
        return opened.read(len(_MAGIC)) == _MAGIC


def _swap(made: Path, store_dir: Path) -> None:
    """The old write-ahead log must never meet the new file. It goes first; if the machine stops in between, the
    mark keeps the half-made state from being opened."""
    file, kept, mark = store_dir / schema.FILE, store_dir / REPLACED, store_dir / schema.RESTORING
    with translated(file):
        mark.touch(mode=0o600)
        files.sync_directory(store_dir)
        for suffix in ("-wal", "-shm"):
            Path(f"{kept}{suffix}").unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                os.rename(f"{file}{suffix}", f"{kept}{suffix}")
        kept.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            os.link(file, kept)
        os.replace(made, file)
        files.sync_directory(store_dir)
        mark.unlink()
        files.sync_directory(store_dir)


@contextmanager
def _alone(store_dir: Path) -> Iterator[None]:
    """Nobody has the store open, and nobody can open it. Raises StoreUnavailable."""
    with translated(store_dir):
        descriptor = os.open(store_dir, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not locks.try_lock(descriptor):
            who = locks.described(locks.holders(store_dir, shared=True))
            raise StoreUnavailable(
                f"the store in {store_dir} is in use by {who}",
                hint=f"stop the daemon and every command that uses it (`fuser {store_dir / schema.FILE}` lists them)",
            )
        yield
    finally:
        os.close(descriptor)
