"""Finds the fields of a document that its kind does not have, for callers who may leave them out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cumulus.admission.messages import unknown_field
from cumulus.admission.problems import FieldPath, FieldProblem, path_text
from cumulus.errors import UsageError
from cumulus.resources import schema
from cumulus.resources.key import Document
from cumulus.resources.kind import Kind
from cumulus.resources.meta import SERVER_FIELDS

MAX_TOLD = 50
"""Problems with the fields of one object that are told one by one: what was probably meant takes some time to find."""
OnUnknown = Callable[[Sequence[FieldProblem]], None]
"""Is told of unknown fields that are left out. It may raise."""


class StrictDecodingError(UsageError):
    """A request that must hold no unknown and no repeated field holds some. `problems` has them all."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"strict decoding error: {', '.join(map(quoted, self.problems))}")


def quoted(problem: FieldProblem) -> str:
    """As Kubernetes words it: unknown field "spec.gpus"; did you mean gpu?"""
    what, _, more = problem.message.partition(";")
    return f'{what} "{path_text(problem.path)}"{f";{more}" if more else ""}'


def without_unknown(kind: Kind, document: Document, tell: OnUnknown, *, stored: Document | None = None) -> Document:
    """The document without unknown fields, those apart that the stored object has too. `tell` hears of the first
    MAX_TOLD. Metadata of Kubernetes that there is not here goes untold."""
    root = schema.root(kind)
    found = list(_unknown(document, root, ()))
    if not found:
        return document
    kept = set(_unknown(stored, root, ())) if stored is not None else set()
    gone = [path for path in found if path not in kept]
    told = [path for path in gone if not (path[0] == "metadata" and len(path) == 2 and path[1] in SERVER_FIELDS)]
    if told:
        tell([FieldProblem(path, unknown_field(path, root), of_name=True) for path in told[:MAX_TOLD]])
    cleaned: Document = _without(document, set(gone), ())
    return cleaned


def _unknown(value: Any, field: schema.SchemaField, path: FieldPath) -> Iterator[FieldPath]:
    """Those of an object, or of each element where the field has several."""
    if not field.fields:
        return
    if isinstance(value, list):
        for index, below in enumerate(value):
            if isinstance(below, dict):
                yield from _unknown(below, field, (*path, index))
    elif isinstance(value, dict):
        for name, below in value.items():
            known = field.fields.get(name)
            if known is None:
                yield (*path, name)
            else:
                yield from _unknown(below, known, (*path, name))


def _without(value: Any, gone: set[FieldPath], path: FieldPath) -> Any:
    if isinstance(value, list):
        return [_without(below, gone, (*path, index)) for index, below in enumerate(value)]
    if isinstance(value, dict):
        here = {name: (*path, name) for name in value}
        return {name: _without(below, gone, here[name]) for name, below in value.items() if here[name] not in gone}
    return value
