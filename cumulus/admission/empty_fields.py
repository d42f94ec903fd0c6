"""Leaves out the fields of a document that have no value (`env:` in YAML, null in JSON). Pure."""

from __future__ import annotations

from typing import Any

from cumulus.resources import schema
from cumulus.resources.key import Document
from cumulus.resources.kind import Kind


def without_empty(kind: Kind, document: Document) -> Document:
    """The document without fields left empty, which means the same as not to give them, as in Kubernetes. The keys of
    maps (labels) are not fields: there it stays, and is a mistake."""
    if not _has_empty(document):
        # To make the schema takes longer than all else of a small document.
        return document
    found: Document = _without(document, schema.root(kind))
    return found


def _has_empty(value: object) -> bool:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(part is None or _has_empty(part) for part in below)


def _without(value: Any, field: schema.SchemaField) -> Any:
    if isinstance(value, list) and field.container == "list":
        return [_without(item, field) if isinstance(item, dict) else item for item in value]
    if not isinstance(value, dict) or field.container == "map":
        return value
    return {
        name: _without(below, field.fields[name]) if name in field.fields else below
        for name, below in value.items()
        if below is not None or name not in field.fields
    }
