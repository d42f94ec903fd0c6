"""JSON Schemas of the kinds, for editors and checkers: what a manifest may say. Pure.

An editor with yaml-language-server takes `all_kinds` for every file of a directory, and needs no comment in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cumulus.resources.kind import Kind
from cumulus.resources.meta import SERVER_FIELDS
from cumulus.resources.registry import KINDS

Schema = dict[str, Any]
DRAFT = "http://json-schema.org/draft-07/schema#"
_NUMBERS_TOO = frozenset({"duration", "share", "percentage", "bytes", "cpus", "scalar"})
"""Formats of texts that may also be written as numbers. Checkers know another format `duration`."""


def schema(kind: Kind) -> Schema:
    """Of one kind, whole in itself."""
    found = _written(kind.model().model_json_schema(by_alias=True, ref_template="#/definitions/{model}"))
    assert isinstance(found, dict)
    definitions = found.pop("$defs", {})
    found["properties"].pop("status", None)
    found["required"] = ["apiVersion", "kind", "metadata", *(["spec"] if "spec" in found.get("required", ()) else [])]
    metadata = definitions.get("ObjectMeta", {})
    for field in SERVER_FIELDS & metadata.get("properties", {}).keys():
        del metadata["properties"][field]
    return {"$schema": DRAFT, **found, "definitions": _reached(found, definitions)}


def all_kinds() -> Schema:
    """Of any object that people make: which one, its `kind` says."""
    kinds = [kind for kind in KINDS if kind.user_made]
    cases = [
        {"if": {"properties": {"kind": {"const": kind.name}}}, "then": {"$ref": f"{kind.name.lower()}.json"}}
        for kind in kinds
    ]
    named = {"type": "string", "enum": [kind.name for kind in kinds]}
    return {
        "$schema": DRAFT, "title": "Cumulus", "type": "object", "required": ["apiVersion", "kind", "metadata"],
        "properties": {"kind": named}, "allOf": cases,
    }  # fmt: skip


def files() -> dict[str, Schema]:
    """Every schema by the name of its file, and a catalogue of them as schemastore.org has it."""
    found = {f"{kind.name.lower()}.json": schema(kind) for kind in KINDS if kind.user_made}
    found["cumulus.json"] = all_kinds()
    entry = {
        "name": "Cumulus", "description": "Manifests of Cumulus", "fileMatch": ["manifests/**/*.yaml"],
        "url": "cumulus.json",
    }  # fmt: skip
    found["catalog.json"] = {"version": 1, "schemas": [entry]}
    return found


def _written(node: Any) -> Any:
    if isinstance(node, list):
        return [_written(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    found = {name: _written(value) for name, value in node.items() if name not in ("title", "examples")}
    if found.get("type") == "string" and found.get("format") in _NUMBERS_TOO:
        del found["format"]
        found["type"] = ["string", "number"]
    if "properties" in found:
        # Of a field that is called so, not the word of a schema.
        found["properties"] = {name: _written(value) for name, value in node["properties"].items()}
    return found


def _reached(node: Any, definitions: Mapping[str, Any]) -> Schema:
    found: Schema = {}
    pending = [node]
    while pending:
        at = pending.pop()
        if isinstance(at, list):
            pending += at
        elif isinstance(at, Mapping):
            name = str(at.get("$ref", "")).rpartition("/")[2]
            if name in definitions and name not in found:
                found[name] = definitions[name]
                pending.append(definitions[name])
            pending += at.values()
    return dict(sorted(found.items()))
