"""Reading an object's JSON without its model: the value at a dotted path, a condition.

Verbs and pages read documents this way, so that they start fast and so that a damaged object can be shown too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cumulus.resources.key import Document

MALFORMED = (AttributeError, KeyError, TypeError, ValueError)
"""What a document of another shape than its kind's raises where it is taken apart; and so do defects of ours."""


def lookup(document: Any, path: str | Sequence[str]) -> Any:
    """The value at `status.phase`, or at the names of a path; None where it is missing.

    Give the names where one of them has dots itself, as the key of a label has.
    """
    for name in path.split(".") if isinstance(path, str) else path:
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


def owners(document: Document) -> Sequence[Mapping[str, Any]]:
    """The object's owner references, each with a uid."""
    return document["metadata"].get("ownerReferences") or ()


def owners_of(document: Document, kind: str) -> Iterator[Mapping[str, Any]]:
    """Those of its owner references that are to objects of one kind."""
    return (reference for reference in owners(document) if reference["kind"] == kind)


def condition(document: Document, type: str) -> Mapping[str, Any]:
    """The condition of that type, empty where the object has none."""
    for found in lookup(document, "status.conditions") or ():
        if found.get("type") == type:
            return dict(found)
    return {}


def json_type(value: object) -> str:
    """What a JSON value is, for people."""
    names = {
        dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number",
        type(None): "null",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)
