"""Describes kinds and fields for `cumulus explain`, from the models that also check them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

from cumulus.errors import UsageError
from cumulus.resources.field_path import instead
from cumulus.resources.key import API_VERSION
from cumulus.resources.kind import Kind
from cumulus.resources.registry import find_kind
from cumulus.resources.schema import SchemaField, root


def explain(path: str, *, recursive: bool = False, width: int = 80) -> str:
    """The text for a kind ("gpujob", "jobs") or a field of it ("gpujob.spec.gpu"), ended by a line break.

    `recursive`: the fields at every depth, with types alone. Raises UsageError with what was probably meant.
    """
    word, *names = path.strip(".").removesuffix(".cumulus.dev").split(".")
    kind = find_kind(word)
    field = _find(kind, names)
    return "\n".join(_lines(kind, field, recursive, width)) + "\n"


def _find(kind: Kind, names: list[str]) -> SchemaField:
    field = root(kind)
    for depth, name in enumerate(names):
        found = field.fields.get(name.split("[", 1)[0])
        if found is None:
            raise _no_such_field(kind, field, names[:depth], name)
        field = found
    return field


def _no_such_field(kind: Kind, parent: SchemaField, path: list[str], name: str) -> UsageError:
    word = kind.name.lower()
    hint = instead(kind, parent, ".".join(path), name, before=f"{word}.")
    return UsageError(f"{'.'.join([word, *path])} has no field {name!r}", hint=hint)


def _lines(kind: Kind, field: SchemaField, recursive: bool, width: int) -> Iterator[str]:
    yield f"KIND:       {kind.name}"
    yield f"VERSION:    {API_VERSION}"
    if field.name:
        yield ""
        yield f"FIELD:      {_head(field)}"
    else:
        yield f"NAMES:      {', '.join(kind.words)}"
    yield ""
    yield "DESCRIPTION:"
    yield from _indented(field.description, 4, width)
    for label, text in _facts(field):
        yield from _indented(f"{label}: {text}", 4, width)
    if field.fields:
        yield ""
        yield "FIELDS:"
        yield from _tree(field, 1) if recursive else _fields(field, width)


def _fields(parent: SchemaField, width: int) -> Iterator[str]:
    widest = max(len(name) for name in parent.fields)
    for index, field in enumerate(parent.fields.values()):
        if index:
            yield ""
        yield f"  {_head(field, widest)}"
        yield from _indented(field.description, 4, width)
        for label, text in _facts(field):
            yield from _indented(f"{label}: {text}", 4, width)


def _tree(parent: SchemaField, depth: int) -> Iterator[str]:
    widest = max((len(name) for name in parent.fields), default=0)
    for field in parent.fields.values():
        yield "  " * depth + _head(field, widest)
        yield from _tree(field, depth + 1)


def _head(field: SchemaField, widest: int = 0) -> str:
    return f"{field.name:{widest}}  <{field.type}>" + (" -required-" if field.required else "")


def _facts(field: SchemaField) -> Iterator[tuple[str, str]]:
    if len(field.choices) > 1:
        yield "one of", ", ".join(field.choices)
    if field.default is not None:
        yield "default", field.default if isinstance(field.default, str) else json.dumps(field.default)
    if field.bounds:
        yield "range", field.bounds
    if field.examples:
        yield "for example", ", ".join(field.examples)


def _indented(text: str, by: int, width: int) -> list[str]:
    space = " " * by
    return textwrap.wrap(text, max(width, 40), initial_indent=space, subsequent_indent=space, break_on_hyphens=False)
