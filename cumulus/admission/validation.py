"""Validates a document against its kind's model: gives the model, or everything that is wrong in plain words."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from cumulus.admission import rules
from cumulus.admission.messages import meant_field, message_for
from cumulus.admission.problems import FieldPath, FieldProblem, Rejected
from cumulus.admission.written import Json, Written, broken_paths, is_broken
from cumulus.resources import schema
from cumulus.resources.key import Document
from cumulus.resources.kind import Kind
from cumulus.resources.meta import Resource

MAX_PROBLEMS = 1000
"""Problems with the fields of one object that are told one by one."""


def validated(kind: Kind, document: Document, written: Written | None = None) -> Resource:
    """The model of `document`, with every default. Raises Rejected.

    `written`: the same values as somebody wrote them, for messages that quote them; as JSON if left out.
    """
    try:
        text = json.dumps(document)
    except (TypeError, ValueError, RecursionError) as error:
        raise _not_json(kind, document, str(error)) from None
    try:
        return kind.model().model_validate_json(text, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        if (first := error.errors(include_url=False)[0])["type"] == "json_invalid":
            raise _not_json(kind, document, first["msg"]) from None
        found = _problems(error, document, written or Json.of(document), kind)
        raise Rejected(name_of(kind, document), found) from None


def problems(kind: Kind, document: Document) -> list[FieldProblem]:
    """Everything that is wrong with a document."""
    try:
        validated(kind, document)
    except Rejected as error:
        return list(error.problems)
    return []


def name_of(kind: Kind, document: Document) -> str:
    """gpujob/default/train, or as much of it as there is."""
    metadata: Any = document.get("metadata")
    parts = (metadata.get("namespace"), metadata.get("name")) if isinstance(metadata, dict) else ()
    return "/".join([kind.name.lower(), *(part for part in parts if isinstance(part, str) and part.isprintable())])


def _not_json(kind: Kind, document: Document, why: str) -> Rejected:
    """What JSON cannot say: only a program can give that."""
    if "recursion" in why or "Circular" in why:
        message = "is nested too deeply"
    elif "hex escape" in why or "surrogate" in why:
        message = "holds text that is not Unicode: a lone surrogate"
    else:
        message = f"cannot be written as JSON: {why}"
    return Rejected(name_of(kind, document), [FieldProblem((), message)])


def _problems(error: ValidationError, document: Document, written: Written, kind: Kind) -> list[FieldProblem]:
    found: dict[FieldProblem, None] = {}
    shape = schema.root(kind)
    details = error.errors(include_url=False)
    more = len(details) - MAX_PROBLEMS
    if more > 0:
        details = details[:MAX_PROBLEMS]
        found[FieldProblem((), f"has {more:,} more problems than are shown here")] = None
    unknown = {tuple(detail["loc"]) for detail in details if detail["type"] == "extra_forbidden"}
    # A field that was given under a misspelt name is not also missing.
    misspelt = {(*path[:-1], meant) for path in unknown if (meant := meant_field(path, shape)) is not None}
    for detail in details:
        loc: FieldPath = tuple(detail["loc"])
        is_key = loc[-1:] == ("[key]",)
        path = loc[:-1] if is_key else loc
        if is_broken(written, path) or (detail["type"] == "missing" and path in misspelt):
            continue
        message, below = message_for(detail, written, path, shape)
        of_name = is_key or detail["type"] == "extra_forbidden"
        found[FieldProblem(path + below, message, of_name)] = None
    wrong = {tuple(detail["loc"]) for detail in details} | misspelt | set(broken_paths(written))
    for path, message in rules.broken_rules(kind.model(), document, wrong):
        found[FieldProblem(path, message)] = None
    return list(found)
