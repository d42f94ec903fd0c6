"""How objects are shown: whole, as rows of a table, or their metadata alone. The Accept header says which.

Columns are those of the kind's entry in the registry; those that `-o wide` adds have priority 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import orjson

from cumulus.clock import Clock
from cumulus.errors import UsageError
from cumulus.resources.columns import Cells, OwnedBy
from cumulus.resources.key import Document
from cumulus.resources.kind import Column
from cumulus.resources.packed import PackedRun
from cumulus.server.http.kubernetes.representation import Form
from cumulus.server.http.kubernetes.rows import KeptRows, RowMaker

META = "meta.k8s.io/v1"


class Shape(Protocol):
    """What a table knows of a kind. `named`: whether its objects' names say anything to people."""

    @property
    def name(self) -> str: ...
    @property
    def api_version(self) -> str: ...
    @property
    def columns(self) -> tuple[Column, ...]: ...
    @property
    def named(self) -> bool: ...


class Shown:
    """One request's way to show objects of a kind."""

    def __init__(
        self, kind: Shape, form: Form, include: str, clock: Clock, owned_by: OwnedBy = lambda _: (),
        kept: KeptRows | None = None, whole: Callable[[Document], Document] | None = None,
    ) -> None:  # fmt: skip
        """`kept`: rows of earlier answers; where there are none, objects are not shown as they are packed. `whole`:
        makes of an object what is sent where the client asks for all of it; None: it is that itself."""
        self._made_whole = whole
        self.form = form
        self._kept = kept
        self._kind = kind
        self._clock = clock
        self._owned_by = owned_by
        if include not in ("", "Metadata", "None", "Object"):
            raise UsageError("includeObject must be None, Metadata or Object")
        self._include = include or "Metadata"

    @property
    def api_version(self) -> str:
        """Of the objects."""
        return self._kind.api_version

    def many(self, items: Sequence[Document], metadata: Document) -> Document:
        if self.form.kind == "Table":
            return self._table(items, metadata)
        if self.form.kind:
            rows = [_metadata_of(item) for item in items]
            return {"kind": "PartialObjectMetadataList", "apiVersion": META, "metadata": metadata, "items": rows}
        return self._list([self._whole(item) for item in items] if self._made_whole else items, metadata)

    @property
    def takes_packed(self) -> bool:
        """Whether `packed` shows objects in this form."""
        if self.form.yaml:
            return False
        return not self.form.kind or (
            self.form.kind == "Table" and self._include != "Object" and self._kept is not None
        )

    def packed(self, runs: Sequence[PackedRun], metadata: Document) -> Sequence[bytes]:
        """As `many`, of whole objects that are given as JSON: as pieces of JSON."""
        listed = orjson.Fragment(b"[\0]")
        if not self.form.kind:
            return _between(self._list(listed, metadata), [run.joined for run in runs])
        assert self._kept is not None
        rows = RowMaker(
            self._kind.columns, (self._kind.name, self._include), self._clock.now(), self._owned_by, self._kept,
            self._cells, self._object,
        )  # fmt: skip
        return _between(self._headed(listed, metadata, heading=True), rows.of(runs))

    def _list(self, items: object, metadata: Document) -> Document:
        return {"kind": f"{self._kind.name}List", "apiVersion": self.api_version, "metadata": metadata, "items": items}

    def one(self, item: Document, *, heading: bool = True) -> Document:
        """Without `heading` a table has rows alone, as in all events of a watch but the first."""
        if self.form.kind == "Table":
            version = item["metadata"].get("resourceVersion", "")
            return self._table([item], {"resourceVersion": version}, heading=heading)
        return _metadata_of(item) if self.form.kind else self._whole(item)

    def _table(self, items: Sequence[Document], metadata: Document, *, heading: bool = True) -> Document:
        cells = Cells(self._clock.now(), self._owned_by)
        columns = self._kind.columns
        rows = [{"cells": self._cells(item, cells.row(columns, item)), "object": self._object(item)} for item in items]
        return self._headed(rows, metadata, heading=heading)

    def _headed(self, rows: object, metadata: Document, *, heading: bool) -> Document:
        return {
            "kind": "Table", "apiVersion": META, "metadata": metadata,
            "columnDefinitions": self._definitions() if heading else None, "rows": rows,
        }  # fmt: skip

    def _cells(self, item: Document, row: Sequence[Any]) -> list[Any]:
        name = item["metadata"]["name"]
        return [name, *row] if self._kind.named else [*row, name]

    def _definitions(self) -> list[dict[str, Any]]:
        named = self._kind.named
        name = {"name": "Name", "type": "string", "format": "name", "description": "", "priority": int(not named)}
        others = [
            {
                "name": column.title.title(), "type": "string", "format": "", "description": column.path,
                "priority": int(column.wide),
            }
            for column in self._kind.columns
        ]  # fmt: skip
        return [name, *others] if named else [*others, name]

    def _object(self, item: Document) -> Document | None:
        match self._include:
            case "None":
                return None
            case "Object":
                return self._whole(item)
            case _:
                return _metadata_of(item)

    def _whole(self, item: Document) -> Document:
        return item if self._made_whole is None else self._made_whole(item)


def _between(around: Document, pieces: Sequence[bytes]) -> Sequence[bytes]:
    """The JSON of what is around, with the pieces, and commas between them, in the place of its only NUL."""
    head, tail = orjson.dumps(around).split(b"\0")
    found = [head]
    for piece in pieces:
        found += piece, b","
    return [*(found[:-1] if pieces else found), tail]


def _metadata_of(item: Document) -> Document:
    return {"kind": "PartialObjectMetadata", "apiVersion": META, "metadata": item["metadata"]}
