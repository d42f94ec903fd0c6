"""Applies patches to documents: JSON merge patch (RFC 7386) and JSON patch (RFC 6902), within bounds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import orjson

from cumulus.errors import InvalidObject, UsageError
from cumulus.lib.printable import one_line
from cumulus.resources.documents import json_type
from cumulus.resources.key import Document

MAX_OPERATIONS = 10_000
"""Of one JSON patch, as in Kubernetes."""
MAX_COPIED = 3 * 2**20
"""Bytes that the `copy` operations of one JSON patch may copy: each can double a document."""


def patched(document: Document, patch: object, type: str) -> Document:
    """`document` with the patch applied; itself where that changes nothing. Raises UsageError for what is no patch,
    InvalidObject for one that does not fit the document."""
    check(patch, type)
    try:
        after = _merge(document, patch) if isinstance(patch, Mapping) else _operated(document, patch)  # type: ignore[arg-type]
        return document if after == document else after
    except RecursionError:
        raise _misfit("the patch is nested too deeply") from None


def check(patch: object, type: str) -> None:
    """Raises UsageError, InvalidObject for what fits no document."""
    match type:
        case "merge":
            if not isinstance(patch, Mapping):
                raise _misfit(f"a merge patch is a JSON object, not {json_type(patch)}")
        case "json":
            if not isinstance(patch, list | tuple):
                raise _misfit(f"a JSON patch is a list of operations, not {json_type(patch)}")
            if len(patch) > MAX_OPERATIONS:
                raise UsageError(f"a JSON patch has at most {MAX_OPERATIONS:,} operations, not {len(patch):,}")
        case _:
            raise UsageError(f"there is no type {type!r} of patch", hint="it is merge or json")


def _merge(document: Document, patch: Mapping[str, object]) -> Document:
    after = dict(document)
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
        elif isinstance(value, Mapping):
            below = after.get(name)
            after[name] = _merge(below if isinstance(below, dict) else {}, value)
        else:
            after[name] = value
    return after


def _operated(document: Document, patch: Sequence[object]) -> Document:
    import jsonpatch
    import jsonpointer

    after: Any = deepcopy(document)
    copied = 0
    for number, operation in enumerate(patch):
        if not isinstance(operation, dict):
            raise UsageError(f"operation {number} of the JSON patch is {json_type(operation)}, not a JSON object")
        try:
            if operation.get("op") == "copy":
                copied += len(orjson.dumps(jsonpointer.resolve_pointer(after, operation.get("from", ""))))
                if copied > MAX_COPIED:
                    raise UsageError(f"a JSON patch may copy at most {MAX_COPIED} bytes")
            after = jsonpatch.JsonPatch([deepcopy(operation)]).apply(after, in_place=True)
        except (jsonpatch.InvalidJsonPatch, TypeError, AttributeError, KeyError, orjson.JSONEncodeError) as error:
            raise UsageError(f"operation {number} of the JSON patch is malformed: {_said(error)}") from None
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, ValueError, IndexError) as error:
            raise _misfit(f"operation {number} of the JSON patch does not fit: {_said(error)}") from None
    if not isinstance(after, dict) or not isinstance(after.get("metadata"), dict):
        raise _misfit("the JSON patch leaves no object with metadata")
    return after


def _misfit(message: str) -> InvalidObject:
    return InvalidObject(message, field="patch")


def _said(error: Exception) -> str:
    return one_line(str(error))[:200]
