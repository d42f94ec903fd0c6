"""Rows of tables as JSON, made of objects that are JSON. What a row shows of its object alone is kept and used again.

A list of ten thousand objects differs little from the one before. What changes by itself, an age say, is filled in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import orjson

from cumulus.clock import parse_timestamp
from cumulus.resources.columns import Cells, OwnedBy, left, since
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import Column
from cumulus.server.sized_cache import SizedCache

Key = tuple[object, bytes]
"""What is shown, and the digest of the object."""
Kept = SizedCache[Key, "Row"]


class Row(NamedTuple):
    """Pieces of JSON, and between each two of them a cell that goes by the clock."""

    pieces: tuple[bytes, ...]
    clocks: tuple[tuple[str, datetime], ...]
    """The column's form, and the moment."""
    childless: Document | None
    """The object's identity, where its cells say that nothing belongs to it."""

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


class Rows:
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
        self._text = cache(self._counted)

    def of(self, items: Iterable[bytes]) -> list[bytes]:
        return [self._row(item) for item in items]

    def _row(self, item: bytes) -> bytes:
        key = (self._what, hashlib.blake2b(item, digest_size=20).digest())
        row = self._kept.get(key)
        if row is None or (row.childless is not None and self._owned_by(row.childless)):
            row, lasts = self._made(item)
            if lasts:
                self._kept.put(key, row, row.size)
        if len(row.clocks) == 1:
            # As nearly all have.
            (clock,) = row.clocks
            return b"".join((row.pieces[0], self._text(*self._seconds(*clock)), row.pieces[1]))
        texts = (self._text(*self._seconds(*clock)) for clock in row.clocks)
        return row.pieces[0] + b"".join(text + piece for text, piece in zip(texts, row.pieces[1:], strict=True))

    def _seconds(self, form: str, moment: datetime) -> tuple[str, int]:
        now = self._now
        return form, int((now - moment if form == "age" else moment - now).total_seconds())

    def _counted(self, form: str, seconds: int) -> bytes:
        return orjson.dumps(since(seconds) if form == "age" else left(seconds))

    def _made(self, item: bytes) -> tuple[Row, bool]:
        """The row, and whether it says the same later, but for its clocks."""
        document: Document = orjson.loads(item)
        cells = _Noting(self._now, self._owned_by)
        row: list[Any] = []
        clocks: list[tuple[str, datetime]] = []
        for column in self._columns:
            clock = _clock(column, document)
            row.append(orjson.Fragment(b"\0") if clock else cells.cell(column, document))
            if clock:
                clocks.append(clock)
        packed = orjson.dumps({"cells": self._named(document, row), "object": self._shown(document)})
        childless = None
        if cells.asked_owned:
            childless = {"metadata": {name: document["metadata"].get(name) for name in ("uid", "namespace")}}
        made = Row(tuple(packed.split(b"\0")), tuple(clocks), childless)
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


def _clock(column: Column, document: Document) -> tuple[str, datetime] | None:
    """The form and the moment of a cell that goes by the clock; None for any other, and where there is no moment."""
    if column.cell is not None or column.form not in ("age", "until"):
        return None
    try:
        return column.form, parse_timestamp(lookup(document, column.path))
    except (TypeError, ValueError, AttributeError, KeyError):
        return None
