"""`cumulus describe`: everything about an object in sections, with its events at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from cumulus.cli import context, options, targets, terminal
from cumulus.cli.context import Freshness
from cumulus.cli.left_out import LeftOut
from cumulus.cli.targets import Selection
from cumulus.clock import SystemClock
from cumulus.errors import InvalidObject, NotFound
from cumulus.lib import printable, safe_output
from cumulus.lib.table import Heading, Table
from cumulus.resources.annotations import LAST_APPLIED
from cumulus.resources.columns import NOTHING, Cells, age, text
from cumulus.resources.documents import MALFORMED, lookup, owners
from cumulus.resources.key import Document, key_of
from cumulus.resources.kind import Related
from cumulus.resources.registry import BY_NAME
from cumulus.resources.sections import Fields, Rows, Value, moment, sections_of

if TYPE_CHECKING:
    from cumulus.client.base import Description, JobFiles

_WHOLE = frozenset({"NAME", "REASON", "LEASE"})
"""Columns whose words are never broken."""
_MOST, _MOST_LINES = 4000, 200
"""Characters of one value that are shown, and values of a list."""


def describe(
    words: options.Words = None,
    selector: options.Labels = "",
    namespace: options.Namespace = "",
    all_namespaces: options.AllNamespaces = False,
) -> int:
    """Show everything about an object: its spec, its status, the reasons, and what happened.

    \b
    Examples:
      cumulus describe job train
      cumulus describe job/train node/gpu-3
      cumulus describe parts -l cumulus.dev/job=train
    """
    selection = Selection(None if all_namespaces else context.namespace(namespace), selector)
    code = shown = 0
    with context.client() as client:
        left_out = LeftOut(client)
        for target in targets.parse(words or ()):
            try:
                for document in targets.documents(client, target, selection):
                    if shown:
                        safe_output.block(sys.stdout, f"\n{'-' * 40}\n\n")
                    shown += 1
                    try:
                        described = client.describe(key_of(document))
                        DescriptionPrinter(described, SystemClock().now(), sys.stdout).write()
                        left_out.add(*described.damaged)
                        code = 1 if described.incomplete else code
                    except (InvalidObject, *MALFORMED) as error:
                        left_out.blame(error, document)
                        code = 1
            except NotFound as error:
                terminal.error(error)
                code = 1
        left_out.tell()
        if shown:
            Freshness(client).look()
    if not shown and code == 0:
        terminal.note("No resources found.")
    return code


class DescriptionPrinter:
    """Writes one object."""

    def __init__(self, described: Description, now: datetime, out: TextIO) -> None:
        self._described = described
        self._document = described.document
        self.now = now
        self._out = out

    def write(self) -> None:
        document = self._document
        kind = BY_NAME[document["kind"]]
        metadata = Fields(list(_metadata(document, self.now)))
        sections: list[Fields | Rows] = [metadata]
        damage: Exception | None = None
        try:
            for section in sections_of(kind, document, self):
                sections.append(section)
        except (InvalidObject, *MALFORMED) as error:
            damage = error  # What is whole is shown first.
        # What stands at the left is one column, whoever says it.
        left = (section for section in sections if isinstance(section, Fields) and not section.title)
        at_left = [name for section in left for name, value in section.rows if value]
        for section in sections:
            match section:
                case Fields(rows, title):
                    self._fields(rows, title, () if title else at_left)
                case Rows(title, headings, rows):
                    self._table(title, headings, rows)
        if damage is not None:
            raise damage
        if kind.related is not None:
            self._related(kind.related, document)
        self._conditions()
        self._waiting()
        if kind.tells:
            self._events()

    @property
    def files(self) -> JobFiles | None:
        return self._described.files

    def _waiting(self) -> None:
        if self._described.waiting:
            safe_output.line(self._out, "Waiting:")
            for line in self._described.waiting:
                safe_output.paragraph(self._out, f"  {line}")

    def _conditions(self) -> None:
        conditions = lookup(self._document, "status.conditions") or ()
        rows = [_condition_row(c, self.now) for c in conditions]
        if rows:
            self._table("Conditions", ("TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"), rows)

    def _events(self) -> None:
        rows = [_event_row(e, self.now) for e in self._described.events]
        self._table("Events", ("LAST SEEN", "COUNT", "TYPE", "REASON", "MESSAGE"), rows)

    def _related(self, related: Related, document: Document) -> None:
        """The table that `get` would show."""
        kind = BY_NAME[related.query(document).kind]
        columns = [c for c in kind.columns if not c.wide]
        find = Cells(self.now)
        rows = [[d["metadata"]["name"], *find.row(columns, d)] for d in self._described.related]
        self._table(related.title, ["NAME", *(Heading(c.title, c.fit, c.yields) for c in columns)], rows)

    def _fields(self, fields: Iterable[tuple[str, Value]], title: str, beside: Sequence[str]) -> None:
        """`beside`: names of others whose values begin in the same column."""
        texts = [(name, _listed(value) if isinstance(value, tuple) else value) for name, value in fields]
        shown = [(name, value) for name, value in texts if value]
        indent = "  " if title else ""
        if title and shown:
            safe_output.line(self._out, f"{title}:")
        width = max((len(name) for name in (*beside, *(name for name, _ in shown))), default=0) + 1
        width = max(width, 14)
        for name, value in shown:
            for number, line in enumerate(value.split("\n")):
                label = f"{name}:" if number == 0 else ""
                safe_output.line(self._out, f"{indent}{label:<{width}} {_short(line)}")

    def _table(self, title: str, headings: Sequence[Heading | str], rows: Sequence[Sequence[str]]) -> None:
        """Indented. A description is read to its end: what has no room in a line is broken into several, not cut."""
        if not rows:
            safe_output.line(self._out, f"{title}: none")
            return
        safe_output.line(self._out, f"{title}:")
        broken = [Heading(h, "whole" if h in _WHOLE else "wrap") if isinstance(h, str) else h for h in headings]
        Table(broken, self._out, indent="  ").write([[_short(cell) for cell in row] for row in rows])


def _metadata(document: Document, now: datetime) -> Iterator[tuple[str, Value]]:
    metadata = document["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != LAST_APPLIED}
    owned_by = [f"{o['kind'].lower()}/{o['name']}" for o in owners(document)]
    yield "Name", metadata["name"]
    yield "Namespace", metadata.get("namespace", "")
    yield "Labels", tuple(f"{k}={v}" for k, v in (metadata.get("labels") or {}).items())
    yield "Annotations", tuple(f"{k}={v}" for k, v in annotations.items())
    yield "UID", metadata.get("uid", "")
    yield "Created", moment(metadata.get("creationTimestamp"), now)
    yield "Belongs to", ", ".join(owned_by)
    if metadata.get("deletionTimestamp"):
        held = text(metadata.get("finalizers") or [])
        yield "Deleting", f"{moment(metadata['deletionTimestamp'], now)}{f', held by {held}' if held else ''}"


def _listed(items: Sequence[str]) -> str:
    """A line for each, whatever breaks it holds itself."""
    lines = [printable.one_line(_short(item)) for item in items[:_MOST_LINES]]
    more = [f"… and {len(items) - _MOST_LINES:,} more; all are in -o yaml"] if len(items) > _MOST_LINES else []
    return "\n".join([*lines, *more])


def _short(text: str) -> str:
    """As much of a text as a person looks at."""
    if len(text) <= _MOST:
        return text
    return f"{text[:_MOST]}… ({len(text):,} characters; all of it is in -o yaml)"


def _condition_row(found: Document, now: datetime) -> list[str]:
    moment = found.get("lastTransitionTime")
    since = age(moment, now) if moment else NOTHING
    return [found["type"], found["status"], found.get("reason") or NOTHING, since, found.get("message", "")]


def _event_row(event: Document, now: datetime) -> list[str]:
    seen = age(event["lastTimestamp"], now)
    return [seen, str(event.get("count", 1)), event["type"], event["reason"], event.get("message", "")]
