"""What `cumulus describe` shows of an object, for a template: the kinds' entries say it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from cumulus.lib.table import Heading
from cumulus.resources.columns import Cells
from cumulus.resources.documents import MALFORMED, lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import Kind
from cumulus.resources.registry import BY_NAME
from cumulus.resources.sections import Fields, Rows, sections_of

if TYPE_CHECKING:
    from cumulus.answers.objects import Description
    from cumulus.resources.sections import Files


@dataclass(frozen=True)
class PageTable:
    """A section with a title of its own. `name` tells it from the other sections of the page."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def name(self) -> str:
        return self.title.lower().replace(" ", "-")


@dataclass(frozen=True)
class FieldList:
    title: str
    rows: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class _Around:
    now: datetime
    files: Files | None


def sections(described: Description, now: datetime) -> Iterator[PageTable | FieldList]:
    """The sections before the first damaged one."""
    document = described.document
    kind = BY_NAME[document["kind"]]
    try:
        for section in sections_of(kind, document, _Around(now, described.files)):
            match section:
                case Fields(rows, title):
                    shown = [(name, (value,) if isinstance(value, str) else value) for name, value in rows if value]
                    if shown:
                        yield FieldList(title, shown)
                case Rows(title, headings, rows):
                    if rows:
                        yield PageTable(title, [_word(each) for each in headings], rows)
    except MALFORMED:
        yield FieldList("Damaged", [("Note", ("this object is damaged; what comes after this cannot be shown",))])


def related(described: Description, now: datetime) -> PageTable | None:
    """The table that `get` would show of what belongs to it."""
    found = BY_NAME[described.document["kind"]].related
    if found is None or not described.related:
        return None
    kind: Kind = BY_NAME[found.query(described.document).kind]
    columns = [column for column in kind.columns if not column.wide and column.form != "age"]
    cells = Cells(now)
    rows = [[each["metadata"]["name"], *cells.row(columns, each)] for each in described.related]
    return PageTable(found.title, ["Name", *(_word(column.title) for column in columns)], rows)


def conditions(document: Document) -> Sequence[Document]:
    return [dict(each) for each in lookup(document, "status.conditions") or () if isinstance(each, dict)]


def _word(heading: Heading | str) -> str:
    text = heading if isinstance(heading, str) else heading.title
    return text.capitalize() if text.isupper() else text
