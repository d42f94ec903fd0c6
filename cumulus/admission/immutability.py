"""Finds changes of immutable fields. The same value in other words is no change. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cumulus.admission.problems import FieldProblem
from cumulus.resources.key import Key
from cumulus.resources.kind import Kind
from cumulus.resources.schema import SchemaField, root
from cumulus.resources.submitter import SUBMITTER_ANNOTATIONS, submitter_annotations
from cumulus.resources.values import KEYED_LISTS, by_name, same_value


def changed(kind: Kind, key: Key, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Each immutable field in which two specs of one object differ, both with every default."""
    mutable = kind.model().MUTABLE
    word = f"{kind.name.lower()}/{key.name}"
    advice = f"delete and apply it again (cumulus delete {word}), or give the new one another name"
    for name in [*old, *(name for name in new if name not in old)]:
        if name in mutable:
            continue
        for path, before, after in _differences(old.get(name), new.get(name), ("spec", name)):
            if ".".join(path[1:]) in mutable:
                continue
            change = f"is immutable and cannot change from {_shown(before)} to {_shown(after)}"
            yield FieldProblem(path, f"{change}; {advice}")


def changed_beside_spec(kind: Kind, key: Key, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Each immutable field beside spec in which two versions of one object differ, both with every default."""
    word = f"{kind.name.lower()}/{key.name}"
    for name in sorted(kind.model().IMMUTABLE):
        for path, before, after in _differences(old.get(name), new.get(name), (name,)):
            change = f"is immutable and cannot change from {_shown(before)} to {_shown(after)}"
            yield FieldProblem(path, f"{change}; delete it (cumulus delete {word}) and make it anew")


def changed_submitter(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """Each annotation that says who made the object, and no longer says the same."""
    before, after = (submitter_annotations(each["metadata"].get("annotations")) for each in (old, new))
    for name in SUBMITTER_ANNOTATIONS:
        if before.get(name) != after.get(name):
            yield FieldProblem(("metadata", "annotations", name), "is set when the object is made and cannot change")


def spec_in_old_words(kind: Kind, old: Any, new: Any) -> Any:
    """`in_old_words` of two specs."""
    return old if old == new else in_old_words(old, new, root(kind).fields["spec"], ("spec",))


def in_old_words(old: Any, new: Any, field: SchemaField, path: tuple[str, ...]) -> Any:
    """`new`, with each value that means the same as the `old` one left as the old one was written: 1024Mi as 1Gi, and
    named items (`env`) in their old order."""
    if isinstance(old, dict) and isinstance(new, dict) and field.container == "" and field.fields:
        return {
            key: in_old_words(old[key], value, field.fields[key], (*path, key))
            if key in old and key in field.fields
            else value
            for key, value in new.items()
        }
    if path in KEYED_LISTS and isinstance(old, list) and isinstance(new, list):
        before, after = (by_name(items, KEYED_LISTS[path]) for items in (old, new))
        return old if before == after and len(before) == len(old) == len(new) else new
    return old if field.container == "" and same_value(field.type, old, new) else new


def _differences(old: Any, new: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """The deepest fields that differ; a list is one value."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), (*path, key))
    else:
        yield path, old, new


def _shown(value: Any) -> str:
    if value is None or value in ({}, [], ()):
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
