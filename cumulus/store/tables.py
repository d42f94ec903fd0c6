"""The SQL of the store, one function a statement, over a connection in a transaction of the caller's."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from cumulus.resources.key import Document, Key
from cumulus.store.codec import DELETED, LogRow, checksum, damaged, decode
from cumulus.store.listing import Candidate, Listing, ListPosition

_BOUNDS = """
SELECT (SELECT value FROM meta WHERE name = 'compacted'), (SELECT max(revision) FROM log)
"""
_STORED = """
SELECT log.revision, type, previous, document, checksum FROM current JOIN log ON log.revision = current.revision
WHERE current.kind = ? AND current.namespace = ? AND current.name = ?
"""
_OF_LOG, _WITH_LOG = (
    "log.revision, type, previous, document, checksum", "CROSS JOIN log ON log.revision = c.revision",
)  # fmt: skip
_ROWS_AT_ONCE = 32
_KEYS_AT_ONCE = 256
_INSERT = "INSERT INTO log VALUES"
_POINT = "INSERT OR REPLACE INTO current VALUES"
_UNPOINT = "DELETE FROM current WHERE kind = ? AND namespace = ? AND name = ?"
_OWN = "INSERT OR IGNORE INTO owners VALUES (?, ?, ?, ?)"
_DISOWN = "DELETE FROM owners WHERE uid = ? AND kind = ? AND namespace = ? AND name = ?"
_AFTER = """
SELECT kind, namespace, name, revision, type, previous, document, checksum FROM log
WHERE revision > ? ORDER BY revision LIMIT ?
"""
_CHANGED = """
SELECT namespace, name, previous FROM log WHERE revision > ? AND kind = ? ORDER BY revision
"""
_LATEST = """
SELECT namespace, name, revision, type FROM log WHERE revision > ? AND kind = ? ORDER BY revision
"""
_DANGLING = """
SELECT c.kind, c.namespace, c.name, c.revision FROM current AS c LEFT JOIN log AS l ON l.revision = c.revision
WHERE (l.kind, l.namespace, l.name) IS NOT (c.kind, c.namespace, c.name) OR l.type = 3 LIMIT 1
"""
_UNPOINTED = """
SELECT l.kind, l.namespace, l.name, l.revision FROM log AS l LEFT JOIN current AS c
ON (c.kind, c.namespace, c.name) = (l.kind, l.namespace, l.name)
WHERE l.type <> 3 AND l.revision NOT IN (SELECT previous FROM log) AND c.revision IS NOT l.revision LIMIT 1
"""
_NAMESPACES = """
SELECT DISTINCT namespace FROM current WHERE namespace <> '' ORDER BY namespace
"""
_DOCUMENT = """
SELECT revision, type, previous, document, checksum FROM log
WHERE revision = ? AND kind = ? AND namespace = ? AND name = ?
"""


def bounds(connection: sqlite3.Connection) -> tuple[int, int]:
    """(compacted, newest) revision."""
    compacted, last = connection.execute(_BOUNDS).fetchone()
    if not (isinstance(compacted, int) and isinstance(last, int | None)):
        raise damaged("a revision is not a number")
    return compacted, max(compacted, last or 0)


def namespaces(connection: sqlite3.Connection) -> list[str]:
    """Those that objects are in."""
    return [namespace for (namespace,) in connection.execute(_NAMESPACES)]


def stored(connection: sqlite3.Connection, key: Key) -> Document | None:
    """The object under the key."""
    if not _is_text(key):
        return None
    row = connection.execute(_STORED, key).fetchone()
    return None if row is None else decode(_intact(*row))


def stored_many(connection: sqlite3.Connection, keys: Sequence[Key]) -> dict[Key, Document | None]:
    """The objects under the first of the keys, in one statement."""
    keys = [key for key in keys if _is_text(key)][:_KEYS_AT_ONCE]
    if not keys:
        return {}
    slots = 1 << (len(keys) - 1).bit_length()
    padded = [*keys, *[keys[-1]] * (slots - len(keys))]
    found = connection.execute(_stored_many(slots), [part for key in padded for part in key])
    there = {Key(row[0], row[1], row[2]): decode(_intact(*row[3:])) for row in found}
    return {key: there.get(key) for key in keys}


def append(connection: sqlite3.Connection, rows: Iterable[LogRow], time: int) -> None:
    """Write the rows and point `current` at them. `time` is in milliseconds since 1970."""
    rows = list(rows)
    logged = [(r.revision, time, r.type, r.previous, *r.key, r.document, _checksum(r)) for r in rows]
    _insert(connection, _INSERT, logged)
    latest = {row.key: row for row in rows}
    _insert(connection, _POINT, [(*row.key, row.revision) for row in latest.values() if row.type != DELETED])
    gone = [row.key for row in latest.values() if row.type == DELETED]
    if gone:
        connection.executemany(_UNPOINT, gone)


def set_owners(connection: sqlite3.Connection, key: Key, before: frozenset[str], after: frozenset[str]) -> None:
    """Bring the owner index of one object from `before` to `after`."""
    connection.executemany(_DISOWN, [(uid, *key) for uid in before - after])
    connection.executemany(_OWN, [(uid, *key) for uid in after - before])


def rows_after(connection: sqlite3.Connection, revision: int, limit: int) -> list[LogRow]:
    """The next rows of the log."""
    return [
        LogRow(row[3], row[4], row[5], Key(row[0], row[1], row[2]), _intact(*row[3:]))
        for row in connection.execute(_AFTER, (revision, limit))
    ]


def candidates(connection: sqlite3.Connection, wanted: Listing) -> Iterator[Candidate]:
    """The current objects of a listing after its start, in order."""
    query, values = _current_of(wanted, "c.namespace, c.name, " + _OF_LOG, _WITH_LOG)
    for namespace, name, *row in connection.execute(query, values) if _is_text(values) else ():
        yield _place(namespace, name), _intact(*row)


def placed(connection: sqlite3.Connection, wanted: Listing) -> Iterator[tuple[ListPosition, int, bytes]]:
    """As `candidates`, each with its revision."""
    query, values = _current_of(wanted, "c.namespace, c.name, " + _OF_LOG, _WITH_LOG)
    found = connection.execute(query, values) if _is_text(values) else ()
    for namespace, name, revision, type, previous, document, check in found:
        yield _place(namespace, name), revision, _intact(revision, type, previous, document, check)


def changes(
    connection: sqlite3.Connection, wanted: Listing, since: int
) -> dict[ListPosition, tuple[int, bytes] | None]:
    """What a listing of all objects, from its start, has now where it changed after a revision that was not compacted:
    the object with its revision, None where it is gone."""
    if not _is_text([wanted.kind, wanted.namespace or ""]):
        return {}
    latest: dict[ListPosition, tuple[int, int]] = {}
    for namespace, name, revision, type in connection.execute(_LATEST, (since, wanted.kind)):
        if wanted.namespace in (None, namespace):
            latest[_place(namespace, name)] = revision, type
    return {
        place: None if type == DELETED else (revision, _document(connection, revision, Key(wanted.kind, *place)))
        for place, (revision, type) in latest.items()
    }


def _current_of(wanted: Listing, columns: str, join: str = "") -> tuple[str, list[str]]:
    """The query for the current objects of a listing after its start, in order, and its values."""
    source = "current AS c"
    where, values = ["c.kind = ?"], [wanted.kind]
    if wanted.namespace is None:
        where.append("(c.namespace, c.name) > (?, ?)")
        values += wanted.after
    else:
        where.append("c.namespace = ? AND c.name > ?")
        values += [wanted.namespace, wanted.after[1]]
    if wanted.owner_uid is not None:
        source = "owners AS o CROSS JOIN current AS c ON (c.kind, c.namespace, c.name) = (o.kind, o.namespace, o.name)"
        where.append("o.uid = ? AND o.kind = ?")
        values += [wanted.owner_uid, wanted.kind]
    query = f"SELECT {columns} FROM {source} {join} WHERE {' AND '.join(where)} ORDER BY c.namespace, c.name"
    return query, values


def changed_since(connection: sqlite3.Connection, kind: str, revision: int) -> dict[ListPosition, bytes | None]:
    """The objects of the kind that changed after `revision`, as they were at it (None: not there)."""
    before: dict[ListPosition, int] = {}
    for namespace, name, previous in connection.execute(_CHANGED, (revision, kind)):
        before.setdefault(_place(namespace, name), previous)
    return {
        place: _document(connection, previous, Key(kind, *place)) if previous else None
        for place, previous in before.items()
    }


def _insert(connection: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Many rows a statement: between two statements other threads may take the interpreter for a while."""
    if len(rows) == 1:
        connection.execute(_insert_text(into, 1, len(rows[0])), rows[0])
        return
    start = 0
    while start < len(rows):
        count = min(_ROWS_AT_ONCE, 1 << ((len(rows) - start).bit_length() - 1))
        piece = rows[start : start + count]
        connection.execute(_insert_text(into, count, len(piece[0])), [value for row in piece for value in row])
        start += count


@cache
def _insert_text(into: str, rows: int, columns: int) -> str:
    """One text for each power of two, so that SQLite's prepared statements are used again."""
    return f"{into} {_tuples(rows, columns)}"


def _tuples(rows: int, columns: int) -> str:
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


@cache
def _stored_many(slots: int) -> str:
    return (
        f"WITH wanted (kind, namespace, name) AS (VALUES {_tuples(slots, 3)}) "
        "SELECT c.kind, c.namespace, c.name, log.revision, type, previous, document, checksum FROM wanted AS w "
        "CROSS JOIN current AS c ON (c.kind, c.namespace, c.name) = (w.kind, w.namespace, w.name) "
        "CROSS JOIN log ON log.revision = c.revision"
    )


def forget(connection: sqlite3.Connection, after: int, upto: int) -> None:
    """Drop what the revisions of (after, upto] replaced, and the deletions among them; note `upto` as compacted."""
    connection.execute(
        "DELETE FROM log WHERE revision IN (SELECT previous FROM log WHERE revision > ? AND revision <= ?)",
        (after, upto),
    )
    connection.execute("DELETE FROM log WHERE revision > ? AND revision <= ? AND type = ?", (after, upto, DELETED))
    mark_compacted(connection, upto)


def mark_compacted(connection: sqlite3.Connection, revision: int) -> None:
    """History begins at `revision` from now on."""
    connection.execute("UPDATE meta SET value = ? WHERE name = 'compacted'", (revision,))


def verify(connection: sqlite3.Connection) -> None:
    """Read everything, as long as that takes. Raises StoreUnavailable, or sqlite3's error, for any damage."""
    (result,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if result != "ok":
        raise damaged(" ".join(result.split()))
    for row in connection.execute("SELECT revision, type, previous, document, checksum FROM log"):
        _intact(*row)
    for query in (_DANGLING, _UNPOINTED):
        found = connection.execute(query).fetchone()
        if found is not None:
            raise damaged(f"{found[0].lower()}/{found[1]}/{found[2]} and its revision {found[3]} do not match")


def first_younger(connection: sqlite3.Connection, after: int, time: int) -> int | None:
    """The first revision after `after` that was written later than `time` (milliseconds since 1970)."""
    row = connection.execute(
        "SELECT revision FROM log WHERE revision > ? AND time > ? ORDER BY revision LIMIT 1", (after, time)
    ).fetchone()
    return None if row is None else int(row[0])


def _document(connection: sqlite3.Connection, revision: int, key: Key) -> bytes:
    row = connection.execute(_DOCUMENT, (revision, *key)).fetchone()
    if row is None:
        raise damaged(f"{key} has no revision {revision} in the log")
    return _intact(*row)


def _checksum(row: LogRow) -> int:
    return checksum(row.revision, row.type, row.previous, row.document)


def _is_text(parts: Iterable[str]) -> bool:
    """SQLite stores no text that is not Unicode, which a command line can hold."""
    try:
        "".join(parts).encode()
    except UnicodeEncodeError:
        return False
    return True


def _place(namespace: str, name: str) -> ListPosition:
    """Columns of a damaged file can hold values of any type."""
    if not (isinstance(namespace, str) and isinstance(name, str)):
        raise damaged("a name is not text")
    return namespace, name


def _intact(revision: int, type: int, previous: int, document: bytes, check: int) -> bytes:
    if not isinstance(document, bytes) or checksum(revision, type, previous, document) != check:
        raise damaged(f"revision {revision} does not match its checksum")
    return document
