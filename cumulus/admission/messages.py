"""Words pydantic's errors for people: what is wrong, what is right, and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cumulus.admission.problems import FieldPath
from cumulus.admission.written import Written, at
from cumulus.lib.suggest import nearest
from cumulus.resources.fields import FieldError
from cumulus.resources.kind import Kind
from cumulus.resources.meta import SERVER_FIELDS
from cumulus.resources.schema import SchemaField


def message_for(
    detail: Mapping[str, Any], written: Written, path: FieldPath, root: SchemaField
) -> tuple[str, FieldPath]:
    """The message for one pydantic error of the document `written`, and the rest of the path where a rule knows it."""
    kind: str = detail["type"]
    context: Mapping[str, Any] = detail.get("ctx") or {}
    value = at(written, path)
    if kind == "value_error":
        return _broken_rule(context["error"], value, _field_at(root, path))
    if kind == "missing":
        field = _field_at(root, path)
        return "is required" + (f": {field.description}" if field and field.description else ""), ()
    if kind == "extra_forbidden":
        return unknown_field(path, root), ()
    if kind in _BOUNDS:
        limit = next(context[name] for name in ("ge", "gt", "le", "lt") if name in context)
        return f"{_BOUNDS[kind]} {limit}, got {_shown(value)}", ()
    if kind in ("string_too_short", "too_short"):
        return "must not be empty", ()
    if kind == "string_pattern_mismatch":
        wrong = _PATTERNS.get(context["pattern"], f"must match {context['pattern']}")
        return f"{wrong}, got {_shown(value)}", ()
    if kind in ("literal_error", "enum"):
        return _wrong_choice(value, _field_at(root, path)), ()
    return _wrong_type(kind, value, _field_at(root, path)) or str(detail["msg"]), ()


def meant_field(path: FieldPath, root: SchemaField) -> str | None:
    """The sibling that was meant where the field at `path` is unknown, or None."""
    parent = _field_at(root, path[:-1])
    return next(iter(nearest(str(path[-1]), parent.fields)), None) if parent is not None else None


def suggestion(word: str, candidates: Iterable[str], *, all_of: str = "") -> str:
    """`; did you mean X?` where one is near, else all of them after `all_of`, else nothing."""
    known = list(candidates)
    for near in nearest(word, known):
        return f"; did you mean {near}?"
    return f"; {all_of} {joined(known, 'and')}" if all_of and known else ""


def no_namespace(kind: Kind) -> str:
    return f"a {kind.name} belongs to no namespace; remove it"


def unknown_field(path: FieldPath, root: SchemaField) -> str:
    """What is wrong with a field that there is not, and what was probably meant."""
    name = str(path[-1])
    parent = _field_at(root, path[:-1])
    assert parent is not None
    near = meant_field(path, root)
    elsewhere = _elsewhere(name, path[:-1], root)
    if near is not None and (_plain(near) == _plain(name) or elsewhere is None):
        return f"unknown field; did you mean {near}?"
    if elsewhere is not None:
        return f"unknown field; did you mean {elsewhere}?"
    usual = [name for name in parent.fields if name not in SERVER_FIELDS and name != "status"]
    are = "fields here are" if len(usual) > 1 else "one field here is"
    return f"unknown field; the {are} {joined(usual, 'and')}"


def joined(words: Sequence[str], last: str) -> str:
    """a, b and c, where `last` is "and"."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def _elsewhere(name: str, parent: FieldPath, root: SchemaField) -> str | None:
    """A field of that name further out or further in, or what Kubernetes' name for it is called here."""
    here = ".".join(str(step) for step in parent if isinstance(step, str))
    found = []
    for path, field in root.walk():
        above = path.rpartition(".")[0]
        if field.name == name and not path.startswith("status") and (_within(above, here) or _within(here, above)):
            found.append(path)
        if path == _KUBERNETES.get(name):
            return path
    return min(found, key=len, default=None)


def _within(path: str, outer: str) -> bool:
    return outer == "" or path == outer or path.startswith(outer + ".")


def _broken_rule(error: ValueError, value: Written | None, field: SchemaField | None) -> tuple[str, FieldPath]:
    if isinstance(error, FieldError):
        return str(error), error.at
    if field is not None and field.examples and value is not None and isinstance(value.value, list | dict | bool):
        return f"must be like {joined(list(field.examples), 'or')}, got {_shown(value)}", ()
    said = str(error)
    if value is not None and isinstance(value.value, float):
        # As it was written: Python says 1e-05 for 0.00001.
        said = said.replace(repr(value.value), value.text, 1)
    return said, ()


def _wrong_choice(value: Written | None, field: SchemaField | None) -> str:
    choices = list(field.choices) if field is not None else []
    text = f"must be {joined(choices, 'or')}, got {_shown(value)}"
    near = nearest(value.text, choices) if value is not None else []
    return f"{text}; did you mean {near[0]}?" if near else text


def _wrong_type(kind: str, value: Written | None, field: SchemaField | None) -> str | None:
    got = f"got {_shown(value)}"
    if kind == "string_type":
        if value is None or isinstance(value.value, list | dict):
            return f"must be text, {got}"
        return f'must be text, {got}; put it in quotes: "{value.text[:40]}"'
    if kind.startswith("int_"):
        unquote = value is not None and not value.plain and value.text.strip().lstrip("-").isdecimal()
        if unquote:
            return f"must be a whole number, {got}; remove the quotes"
        if value is not None and isinstance(value.value, float) and value.value.is_integer():
            return f"must be a whole number, {got}; write {int(value.value)}"
        if value is not None and _LEADING_ZERO.fullmatch(value.text):
            return f"must be a whole number, {got}; a leading zero makes it text"
        return f"must be a whole number, {got}"
    if kind.startswith("float_"):
        return f"must be a number, {got}"
    if kind.startswith("bool_"):
        meant = _BOOLEANS.get(value.text.lower()) if value is not None else None
        return f"must be true or false, {got}" + (f"; write {meant}" if meant else "")
    if kind in ("tuple_type", "list_type"):
        return f"must be a list, {got}{_as_list(value, field)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        names = [name for name in field.fields if name not in SERVER_FIELDS] if field is not None else []
        return f"must be a map{' with ' if names else ''}{joined(names, 'and')}, {got}"
    return None


def _as_list(value: Written | None, field: SchemaField | None) -> str:
    if value is None or field is None:
        return ""
    if field.type == "[]string" and isinstance(value.value, str):
        return f"; write [{', '.join(repr(word) for word in value.value.split()[:6])}]"
    if "name" in field.fields and isinstance(value.value, dict):
        return "; write each as '- name: …', with its value beside it"
    return "; begin each item with '- '" if isinstance(value.value, dict) else ""


def _shown(value: Written | None) -> str:
    if value is None or value.value is None:
        return "nothing"
    if isinstance(value.value, dict):
        return "a map"
    if isinstance(value.value, list):
        return "a list"
    text = value.text if len(value.text) <= 60 else value.text[:57] + "..."
    return repr(text) if isinstance(value.value, str) else text


def _field_at(root: SchemaField, path: FieldPath) -> SchemaField | None:
    field = root
    for step in path:
        if isinstance(step, int):
            continue
        if field.container == "map":
            return field
        if step not in field.fields:
            return None
        field = field.fields[step]
    return field


def _plain(word: str) -> str:
    return word.replace("_", "").replace("-", "").lower()


_BOUNDS = {
    "greater_than_equal": "must be at least",
    "less_than_equal": "must be at most",
    "greater_than": "must be more than",
    "less_than": "must be less than",
}
_PATTERNS = {
    r"^[A-Za-z_][A-Za-z0-9_]*$": "must be letters, digits and '_', not beginning with a digit",
    r"^(s3|file)://": "must begin with s3:// or file://",
}
_LEADING_ZERO = re.compile(r"-?0[0-9]+")
_KUBERNETES = {
    "backoffLimit": "spec.retry.limit",
    "parallelism": "spec.replicas",
    "completions": "spec.replicas",
    "nodeSelector": "spec.gpu.selector.nodeLabels",
    "nodeName": "spec.node",
    "volumes": "spec.mounts",
    "volumeMounts": "spec.mounts",
    "mountPath": "spec.mounts.target",
    "hostPath": "spec.mounts.source",
    "terminationGracePeriodSeconds": "spec.checkpoint.gracePeriod",
    "cordon": "spec.unschedulable",
}
"""Kubernetes' names -> the fields that do the same here."""
_BOOLEANS = {
    "yes": "true", "y": "true", "on": "true", "true": "true", "1": "true",
    "no": "false", "n": "false", "off": "false", "false": "false", "0": "false",
}  # fmt: skip
