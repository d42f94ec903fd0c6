"""What `describe` shows of an object, as data: fields and tables. Each kind's entry says its own, from documents alone.

An entry yields its sections one by one, so that of a damaged object all is shown up to the damage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cumulus.clock import to_the_second
from cumulus.lib.table import Heading
from cumulus.resources.columns import age, text
from cumulus.resources.key import Document
from cumulus.resources.kind import Kind

Value = str | tuple[str, ...]
"""Text, which may have several lines; or items, each shown on one line whatever it holds. Empty: not shown."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Names and values. With a title they are indented under it."""

    rows: Sequence[tuple[str, Value]]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Rows:
    """A table. A column that is given by its title alone is broken into lines where there is no room."""

    title: str
    headings: Sequence[Heading | str]
    rows: Sequence[Sequence[str]]


Section = Fields | Rows


class Files(Protocol):
    """The directories that were made for an object and go with it."""

    @property
    def directory(self) -> str: ...
    @property
    def working_directories(self) -> tuple[str, ...]: ...


class Surroundings(Protocol):
    """What sections may know besides their object."""

    @property
    def now(self) -> datetime: ...
    @property
    def files(self) -> Files | None:
        """Of a kind that leaves files."""
        ...


def sections_of(kind: Kind, document: Document, around: Surroundings) -> Iterator[Section]:
    """What the kind's entry says of an object; of a kind that says nothing, the spec's fields."""
    if kind.sections is not None:
        yield from kind.sections(document, around)
    else:
        yield Fields([(title(name), text(value)) for name, value in (document.get("spec") or {}).items()])


def moment(when: str | None, now: datetime) -> str:
    """`2030-01-01T11:50:00Z (10m ago)`."""
    return f"{to_the_second(when)} ({age(when, now)} ago)" if when else ""


def flat(value: Document, prefix: str = "") -> list[tuple[str, Value]]:
    """A spec as rows of dotted names, without what is empty."""
    rows: list[tuple[str, Value]] = []
    for name, item in value.items():
        if isinstance(item, dict):
            rows += flat(item, f"{prefix}{name}.")
        elif item not in (None, "", [], {}, False):
            rows.append((f"{prefix}{name}" if prefix else title(name), text(item)))
    return rows


def title(name: str) -> str:
    """minEnforcement -> Min enforcement."""
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in name)
    return words[:1].upper() + words[1:]
