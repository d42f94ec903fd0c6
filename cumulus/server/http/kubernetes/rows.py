"""Rows of tables as JSON, made of objects that are JSON. What a row shows of its object alone is kept and used again.

A list of ten thousand objects differs little from the one before. So the rows of a run of them are kept together, and
in them only these are looked at: cells whose time has come (an age, say), and rows that show more than their object.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from heapq import heapify, heapreplace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import orjson

from cumulus.clock import parse_timestamp
from cumulus.lib.sized_cache import SizedCache
from cumulus.resources.columns import AllOwned, Cells, OwnedBy, left, left_until, since, since_until
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import Column
from cumulus.resources.packed import PackedRun

RowKey = tuple[object, Hashable]
"""What is shown, and the object."""
RowTimes = tuple[bool, int]
"""Whether a cell says how long ago a moment was, or how long it is until then; and that moment, in microseconds since
1970."""

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = 2**63


class RowPieces(NamedTuple):
    """Pieces of JSON, and between each two of them a cell that goes by the clock."""

    pieces: tuple[bytes, ...]
    clocks: tuple[RowTimes, ...]
    childless: tuple[str, str | None] | None
    """The object's uid and namespace, where its cells say that nothing belongs to it."""

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


class RunRows:
    """The rows of a run, put together. Safe for threads."""

    def __init__(self, rows: Sequence[RowPieces | None]) -> None:
        """None: a row that is made anew each time."""
        self._parts: list[bytes] = []
        self._due: list[tuple[int, int, RowTimes]] = []
        """For each cell that goes by the clock the moment from which on it says something else, and its part."""
        self._anew: list[tuple[int, int]] = []
        """The part of such a row, and which of the run it is."""
        self._as_of = _NEVER
        """At which moment the parts are what they are to be. Before any, they are none yet."""
        self._lock = threading.Lock()
        self.childless = {row.childless[0]: row.childless for row in rows if row is not None and row.childless}
        for at, row in enumerate(rows):
            if at:
                self._parts.append(b",")
            if row is None:
                self._anew.append((len(self._parts), at))
                self._parts.append(b"")
                continue
            self._parts.append(row.pieces[0])
            for piece, clock in zip(row.pieces[1:], row.clocks, strict=True):
                self._due.append((0, len(self._parts), clock))
                self._parts += b"", piece

    def told(self, now: int, anew: Callable[[int], bytes]) -> bytes:
        """Their JSON, with commas between them. `anew`: makes a row of the run."""
        with self._lock:
            due = self._due
            if now < self._as_of:
                # Clocks of machines are set back at times.
                self._due = due = [(0, part, clock) for _, part, clock in due]
                heapify(due)
            self._as_of = now
            while due and due[0][0] <= now:
                _, part, clock = due[0]
                self._parts[part], until = _told(clock, now)
                heapreplace(due, (until, part, clock))
            for part, at in self._anew:
                self._parts[part] = anew(at)
            return b"".join(self._parts)


class KeptRows(NamedTuple):
    """Of earlier answers."""

    rows: SizedCache[Any, Any]
    """`RowPieces` by `RowKey`."""
    runs: WeakKeyDictionary[Any, dict[Any, Any]]
    """`RunRows` by what is shown, of each run that there still is; None where a run was seen once."""


class RowMaker:
    """Makes the rows of one answer. `what`: says which columns, and which part of an object, they show. `shown`: that
    part. `named`: puts an object's name among its cells."""

    def __init__(
        self, columns: Sequence[Column], what: object, now: datetime, owned_by: OwnedBy, kept: KeptRows,
        named: Callable[[Document, list[Any]], list[Any]], shown: Callable[[Document], Document | None],
    ) -> None:  # fmt: skip
        self._columns = columns
        self._what = what
        self._now = now
        self._microseconds = _microseconds(now)
        self._owned_by = owned_by
        self._kept = kept
        self._named = named
        self._shown = shown

    def of(self, runs: Iterable[PackedRun]) -> list[bytes]:
        """The rows of each run, with commas between them."""
        return [self._of_run(run) for run in runs]

    def _of_run(self, run: PackedRun) -> bytes:
        whats = self._kept.runs.get(run)
        if whats is None:
            # Many are seen but once: those of a page, or of what a selector takes.
            self._kept.runs[run] = {self._what: None}
            return b",".join([self._told(self._row(run, at)[0]) for at in range(len(run))])
        rows = whats.get(self._what)
        if rows is None or self._owns(rows.childless):
            made = [self._row(run, at) for at in range(len(run))]
            rows = whats[self._what] = RunRows([row if lasts else None for row, lasts in made])
        return rows.told(self._microseconds, lambda at: self._told(self._row(run, at)[0]))

    def _owns(self, childless: Mapping[str, tuple[str, str | None]]) -> bool:
        """Whether something belongs to one of these now."""
        if isinstance(self._owned_by, AllOwned):
            return bool(childless) and self._owned_by.of_any(childless.keys())
        return any(self._owned_by(_identity(*each)) for each in childless.values())

    def _row(self, run: PackedRun, at: int) -> tuple[RowPieces, bool]:
        """The row, and whether it says the same later, but for its clocks."""
        key = run.keys[at]
        row: RowPieces | None = self._kept.rows.get((self._what, key))
        if row is not None and not (row.childless and self._owned_by(_identity(*row.childless))):
            return row, True
        item = run[at]
        row, lasts = self._made(item)
        if lasts:
            self._kept.rows.put((self._what, key), row, row.size + (len(item) if isinstance(key, bytes) else 0))
        return row, lasts

    def _told(self, row: RowPieces) -> bytes:
        pieces = row.pieces
        told = [pieces[0]]
        for piece, clock in zip(pieces[1:], row.clocks, strict=True):
            told += _told(clock, self._microseconds)[0], piece
        return b"".join(told)

    def _made(self, item: bytes) -> tuple[RowPieces, bool]:
        """The row, and whether it says the same later, but for its clocks."""
        document: Document = orjson.loads(item)
        cells = _Noting(self._now, self._owned_by)
        row: list[Any] = []
        clocks: list[RowTimes] = []
        for column in self._columns:
            clock = _clock(column, document)
            row.append(orjson.Fragment(b"\0") if clock else cells.cell(column, document))
            if clock:
                clocks.append(clock)
        packed = orjson.dumps({"cells": self._named(document, row), "object": self._shown(document)})
        uid, childless = document["metadata"].get("uid"), None
        if cells.asked_owned and isinstance(uid, str):
            childless = uid, document["metadata"].get("namespace")
        made = RowPieces(tuple(packed.split(b"\0")), tuple(clocks), childless)
        return made, not (cells.asked_now or cells.found_owned)


class _Noting(Cells):
    """Notes what the cells ask for beyond their object."""

    def __init__(self, now: datetime, owned_by: OwnedBy) -> None:
        super().__init__(now, owned_by)
        self.asked_now = self.asked_owned = self.found_owned = False

    @property
    def now(self) -> datetime:
        self.asked_now = True
        return super().now

    @property
    def owned_by(self) -> OwnedBy:
        def noted(owner: Document) -> Sequence[Document]:
            self.asked_owned = True
            found = super(_Noting, self).owned_by(owner)
            self.found_owned = self.found_owned or bool(found)
            return found

        return noted


def _clock(column: Column, document: Document) -> RowTimes | None:
    """None for a cell that does not go by the clock, and where there is no moment."""
    if column.cell is not None or column.form not in ("age", "until"):
        return None
    try:
        return column.form == "age", _microseconds(parse_timestamp(lookup(document, column.path)))
    except (TypeError, ValueError, AttributeError, KeyError):
        return None


def _microseconds(moment: datetime) -> int:
    return (moment - _BEGINNING) // timedelta(microseconds=1)


def _identity(uid: str, namespace: str | None) -> Document:
    return {"metadata": {"uid": uid, "namespace": namespace}}


def _told(clock: RowTimes, now: int) -> tuple[bytes, int]:
    """What such a cell says, and the first moment from which on it says something else."""
    is_age, at = clock
    seconds = (now - at if is_age else at - now) // 1_000_000
    text, until = _text(is_age, seconds)
    if until is None:
        return text, _NEVER
    return text, at + until * 1_000_000 if is_age else at - until * 1_000_000 + 1


@lru_cache(maxsize=4096)
def _text(is_age: bool, seconds: int) -> tuple[bytes, int | None]:
    if is_age:
        return orjson.dumps(since(seconds)), since_until(seconds)
    return orjson.dumps(left(seconds)), left_until(seconds)
