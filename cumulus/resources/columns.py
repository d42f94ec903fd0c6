"""Formats the cells of tables from an object's JSON. The columns are in `registry`.

`text`, `age`, `until`, `bytes` and `millis` look at the column's path; the others look at the whole object,
and a job's at its partitions too, which are read only when such a column is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import datetime
from functools import cached_property
from typing import Any

from cumulus.clock import parse_timestamp
from cumulus.resources.documents import lookup, owners
from cumulus.resources.key import Document
from cumulus.resources.kind import Column, Kind
from cumulus.resources.quantity import format_bytes, format_duration, same_duration

NOTHING = "-"
UNKNOWN = "?"
OwnedBy = Callable[[Document], Sequence[Document]]
"""The objects that belong to another."""


class AllOwned:
    """What belongs to objects of `kinds` (a job's partitions): an `OwnedBy`. `read` gives all objects of a kind: once,
    when the first is asked for."""

    def __init__(self, kinds: Sequence[Kind], read: Callable[[str], Iterable[Document]]) -> None:
        self._kinds = kinds
        self._read = read

    def __call__(self, owner: Document) -> Sequence[Document]:
        return self._by_owner.get(owner["metadata"]["uid"], ())

    def of_any(self, uids: Set[str]) -> bool:
        """Whether something belongs to an object with one of these uids."""
        return not self._by_owner.keys().isdisjoint(uids)

    @cached_property
    def _by_owner(self) -> Mapping[str, Sequence[Document]]:
        found: dict[str, list[Document]] = {}
        for name in dict.fromkeys(kind.owns for kind in self._kinds if kind.owns):
            for document in self._read(name):
                for reference in owners(document):
                    found.setdefault(reference["uid"], []).append(document)
        return found


class Cells:
    """Computes cells as of `now`. `owned_by` is asked for columns about a job's leases alone."""

    def __init__(self, now: datetime, owned_by: OwnedBy = lambda _: ()) -> None:
        self._now = now
        self._owned_by = owned_by

    @property
    def now(self) -> datetime:
        return self._now

    @property
    def owned_by(self) -> OwnedBy:
        return self._owned_by

    def row(self, columns: Sequence[Column], document: Document) -> list[str]:
        return [self.cell(column, document) for column in columns]

    def cell(self, column: Column, document: Document) -> str:
        """The text of one cell, `-` where there is nothing to show, UNKNOWN on damaged objects."""
        try:
            if column.cell is not None:
                return column.cell(document, self) or NOTHING
            return self._value(column.form, lookup(document, column.path)) or NOTHING
        except (TypeError, ValueError, AttributeError, KeyError):
            return UNKNOWN

    def _value(self, form: str, value: Any) -> str:
        if value is None or value == "":
            return ""
        match form:
            case "age":
                return age(value, self.now)
            case "until":
                return until(value, self.now)
            case "bytes":
                return format_bytes(int(value)) if value else ""
            case "millis":
                return percent(int(value)) if value else ""
            case _:
                return text(value)


def text(value: Any) -> str:
    """A value for a person: lists joined by commas."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(text(item) for item in value)
    return str(value)


def age(moment: str, now: datetime) -> str:
    """The time since `moment`, as kubectl shows ages; clocks that differ never make it negative."""
    return since(int((now - parse_timestamp(moment)).total_seconds()))


def since(seconds: int) -> str:
    """So long ago."""
    return format_duration(max(0, seconds))


def until(moment: str, now: datetime) -> str:
    """The time left until `moment`, `ended` when it is over."""
    return left(int((parse_timestamp(moment) - now).total_seconds()))


def left(seconds: int) -> str:
    """So long from now."""
    return format_duration(seconds) if seconds > 0 else "ended"


def since_until(seconds: int) -> int:
    """How many seconds ago it is when `since` says something else."""
    return same_duration(max(0, seconds))[1]


def left_until(seconds: int) -> int | None:
    """From how many seconds on it is still what `left` says, with as many left; None: for good."""
    return same_duration(seconds)[0] if seconds > 0 else None


def percent(millis: int) -> str:
    """Thousandths of a device: 250 is 25%."""
    return f"{millis / 10:g}%"
