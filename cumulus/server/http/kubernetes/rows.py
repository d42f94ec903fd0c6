"""Rows of tables as JSON, made of objects that are JSON. What a row shows of its object alone is kept and used again.

A list of ten thousand objects differs little from the one before. What changes by itself, an age say, is filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from cumulus.clock import parse_timestamp
from cumulus.lib.sized_cache import SizedCache
from cumulus.resources.columns import Cells, OwnedBy, left, since
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import Column

Key = tuple[object, bytes]
"""What is shown, and the object. The store hands out the same bytes again, which know their hash."""
Kept = SizedCache[Key, "RowPieces"]
Clock = tuple[bool, int]
"""Whether a cell says how long ago a moment was, or how long it is until then; and that moment, in microseconds since
1970."""

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class RowPieces(NamedTuple):
    """Pieces of JSON, and between each two of them a cell that goes by the clock."""

    pieces: tuple[bytes, ...]
    clocks: tuple[Clock, ...]
    childless: Document | None
    """The object's identity, where its cells say that nothing belongs to it."""

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


class RowMaker:
    """Makes the rows of one answer. `what`: says which columns, and which part of an object, they show. `shown`: that
    part. `named`: puts an object's name among its cells."""

    def __init__(
        self, columns: Sequence[Column], what: object, now: datetime, owned_by: OwnedBy, kept: Kept,
        named: Callable[[Document, list[Any]], list[Any]], shown: Callable[[Document], Document | None],
    ) -> None:  # fmt: skip
        self._columns = columns
        self._what = what
        self._now = now
        self._owned_by = owned_by
        self._kept = kept
        self._named = named
        self._shown = shown

    def of(self, items: Iterable[bytes]) -> list[bytes]:
        get, what, owned_by, now, text = self._kept.get, self._what, self._owned_by, _microseconds(self._now), _text
        rows = []
        for item in items:
            row = get((what, item))
            if row is None or (row.childless is not None and owned_by(row.childless)):
                row, lasts = self._made(item)
                if lasts:
                    self._kept.put((what, item), row, len(item) + row.size)
            pieces = row.pieces
            told = [pieces[0]]
            for piece, (is_age, at) in zip(pieces[1:], row.clocks, strict=True):
                told += text(is_age, (now - at if is_age else at - now) // 1_000_000), piece
            rows.append(b"".join(told))
        return rows

    def _made(self, item: bytes) -> tuple[RowPieces, bool]:
        """The row, and whether it says the same later, but for its clocks."""
        document: Document = orjson.loads(item)
        cells = _Noting(self._now, self._owned_by)
        row: list[Any] = []
        clocks: list[Clock] = []
        for column in self._columns:
            clock = _clock(column, document)
            row.append(orjson.Fragment(b"\0") if clock else cells.cell(column, document))
            if clock:
                clocks.append(clock)
        packed = orjson.dumps({"cells": self._named(document, row), "object": self._shown(document)})
        childless = None
        if cells.asked_owned:
            childless = {"metadata": {name: document["metadata"].get(name) for name in ("uid", "namespace")}}
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


def _clock(column: Column, document: Document) -> Clock | None:
    """None for a cell that does not go by the clock, and where there is no moment."""
    if column.cell is not None or column.form not in ("age", "until"):
        return None
    try:
        return column.form == "age", _microseconds(parse_timestamp(lookup(document, column.path)))
    except (TypeError, ValueError, AttributeError, KeyError):
        return None


def _microseconds(moment: datetime) -> int:
    return (moment - _BEGINNING) // timedelta(microseconds=1)


@lru_cache(maxsize=4096)
def _text(is_age: bool, seconds: int) -> bytes:
    return orjson.dumps(since(seconds) if is_age else left(seconds))
