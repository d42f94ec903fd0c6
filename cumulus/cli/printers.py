"""The output forms of `get`: tables, json, yaml, names, custom columns, jsonpath.

`printer` reads `-o` once; the verbs hand it batches of documents of one kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from cumulus.cli.left_out import LeftOut
from cumulus.errors import UsageError
from cumulus.lib import printable, safe_output
from cumulus.lib.table import Heading, Table
from cumulus.resources.columns import NOTHING, UNKNOWN, Cells
from cumulus.resources.key import Document
from cumulus.resources.kind import Column, Kind

if TYPE_CHECKING:
    from cumulus.resources.jsonpath import JsonPath, Template

FORMS = ("wide", "json", "yaml", "name", "custom-columns=…", "jsonpath=…")


class Printer(Protocol):
    """Writes documents of one kind after another."""

    def batch(self, kind: Kind, documents: Sequence[Document]) -> None:
        """Write these, all of one kind."""
        ...


def to_json(value: Any) -> str:
    return printable.json_text(json.dumps(value, indent=4, ensure_ascii=False))


def to_yaml(value: Any) -> str:
    from cumulus.manifest import dump

    return dump(value).rstrip("\n")


def as_list(documents: Sequence[Document]) -> Document:
    return {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": list(documents)}


class Tables:
    """A table for each kind. With several kinds the names carry their kind and a blank line parts the tables."""

    def __init__(
        self,
        out: TextIO,
        cells: Callable[[], Cells],
        left_out: LeftOut,
        *,
        wide: bool = False,
        all_namespaces: bool = False,
        labels: bool = False,
        label_columns: Sequence[str] = (),
        heading: bool = True,
        several: bool = False,
    ) -> None:
        self._out = out
        self._cells = cells
        self._wide = wide
        self._all = all_namespaces
        self._labels = labels
        self._label_columns = label_columns
        self._heading = heading
        self._several = several
        self._tables: dict[str, Table] = {}
        self._left_out = left_out

    def batch(self, kind: Kind, documents: Sequence[Document]) -> None:
        if not documents:
            return
        columns = [c for c in kind.columns if self._wide or not c.wide]
        if kind.name not in self._tables:
            if self._tables:
                safe_output.line(self._out)
            self._tables[kind.name] = Table(self._headings_of(kind, columns), self._out, heading=self._heading)
        cells = self._cells()
        self._tables[kind.name].write([self._row(kind, columns, d, cells) for d in documents])
        self._left_out.tell()

    def _headings_of(self, kind: Kind, columns: Sequence[Column]) -> list[Heading | str]:
        headings: list[Heading | str] = ["NAMESPACE"] if self._all and kind.namespaced else []
        if kind.named:
            headings.append("NAME")
        headings += [Heading(c.title, c.fit, c.yields) for c in columns]
        headings += [key.rpartition("/")[2].upper() for key in self._label_columns]
        return [*headings, Heading("LABELS", "wrap")] if self._labels else headings

    def _row(self, kind: Kind, columns: Sequence[Column], document: Document, cells: Cells) -> list[str]:
        metadata = document["metadata"]
        row = [metadata.get("namespace", "")] if self._all and kind.namespaced else []
        if kind.named:
            row.append(f"{kind.name.lower()}/{metadata['name']}" if self._several else metadata["name"])
        shown = cells.row(columns, document)
        if UNKNOWN in shown:
            self._left_out.look(document)
        row += shown
        row += [(metadata.get("labels") or {}).get(key, "") for key in self._label_columns]
        return [*row, labels_text(document)] if self._labels else row


def labels_text(document: Document) -> str:
    labels = document["metadata"].get("labels") or {}
    return ",".join(f"{k}={v}" for k, v in sorted(labels.items())) or "<none>"


class Names:
    """`gpujob.cumulus.dev/NAME`, a line each."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def batch(self, kind: Kind, documents: Sequence[Document]) -> None:
        for document in documents:
            safe_output.line(self._out, f"{kind.qualified}/{document['metadata']['name']}")
        self._out.flush()


class CustomColumns:
    """`custom-columns=NAME:.metadata.name,PHASE:.status.phase`."""

    def __init__(self, spec: str, out: TextIO, kinds: Sequence[Kind], *, heading: bool) -> None:
        """Raises UsageError, also for a field that none of `kinds` has."""
        from cumulus.resources.jsonpath import JsonPath

        self._paths: list[JsonPath] = []
        titles: list[str] = []
        for part in split_columns(spec):
            title, colon, path = part.partition(":")
            if not title or not colon or not path:
                raise UsageError(
                    f"{part!r} is not a custom column",
                    hint="write custom-columns=TITLE:.path,TITLE:.path, as in NAME:.metadata.name",
                )
            titles.append(title)
            self._paths.append(JsonPath(path))
            self._paths[-1].check(kinds)
        self._table = Table(titles, out, heading=heading)

    def batch(self, kind: Kind, documents: Sequence[Document]) -> None:
        if documents:
            self._table.write([[self._cell(path, d) for path in self._paths] for d in documents])

    def _cell(self, path: JsonPath, document: Document) -> str:
        return ",".join(path.texts(document)) or NOTHING


def split_columns(spec: str) -> list[str]:
    """Split at commas, but not at those inside brackets."""
    parts, depth, current = [], 0, ""
    for char in spec:
        depth += {"[": 1, "]": -1}.get(char, 0)
        if char == "," and depth <= 0:
            parts.append(current)
            current = ""
        else:
            current += char
    return [*parts, current]


def without_managed_fields(document: Document) -> Document:
    """As people read an object: who set which field is long, and for programs."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "managedFields"}
    return {**document, "metadata": metadata}


class DocumentPrinter:
    """json, yaml or jsonpath: one document for everything, so it is written at the end, by `finish`.

    A watch (`stream`) writes each object as it comes instead.
    """

    def __init__(
        self, form: str, out: TextIO, *,
        template: Template | None = None, stream: bool = False, managed_fields: bool = False,
    ) -> None:  # fmt: skip
        self._form = form
        self._out = out
        self._template = template
        self._stream = stream
        # A template says itself what it wants to see.
        self._whole = managed_fields or template is not None
        self._documents: list[Document] = []

    def batch(self, kind: Kind, documents: Sequence[Document]) -> None:
        if not self._whole:
            documents = [without_managed_fields(document) for document in documents]
        if not self._stream:
            self._documents.extend(documents)
            return
        for document in documents:
            self._write(document)

    def finish(self, *, single: bool) -> None:
        """Write what was gathered: the object itself where `single` and there is one, else a List."""
        if self._stream:
            return
        one = single and len(self._documents) == 1
        self._write(self._documents[0] if one else as_list(self._documents))

    def _write(self, value: Document) -> None:
        if self._template is not None:
            text = self._template.render(value)
            if self._out.isatty():
                safe_output.block(self._out, text)
            else:
                # A program asked for these values.
                safe_output.raw(self._out).write(text)
        elif self._form == "yaml":
            safe_output.block(self._out, ("---\n" if self._stream else "") + to_yaml(value) + "\n")
        else:
            safe_output.block(self._out, to_json(value) + "\n")
        self._out.flush()


def printer(
    form: str, out: TextIO, tables: Tables, kinds: Sequence[Kind], *,
    heading: bool = True, stream: bool = False, managed_fields: bool = False,
) -> Printer:  # fmt: skip
    """The printer that `-o FORM` asks for; `tables` serves "" and wide. Raises UsageError, also for a column over a
    field that none of `kinds` has."""
    name, equals, rest = form.partition("=")
    if form in ("", "wide"):
        return tables
    if form == "name":
        return Names(out)
    if form in ("json", "yaml"):
        return DocumentPrinter(form, out, stream=stream, managed_fields=managed_fields)
    if name == "custom-columns" and equals:
        return CustomColumns(rest, out, kinds, heading=heading)
    if name == "jsonpath" and equals:
        from cumulus.resources.jsonpath import Template

        return DocumentPrinter("jsonpath", out, template=Template(rest), stream=stream)
    raise UsageError(f"there is no output format {form!r}", hint=f"the formats are {', '.join(FORMS)}")
