"""`--set PATH=VALUE` as a merge patch of an object, each path checked against the kind's schema."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from cumulus.errors import UsageError
from cumulus.resources.field_path import FieldPlace
from cumulus.resources.key import Document
from cumulus.resources.kind import Kind
from cumulus.resources.schema import SchemaField


def patch_of(kind: Kind, settings: Sequence[str]) -> Document:
    """The merge patch of all settings. An empty value removes a field, so that its default holds. A list of text may be
    written as a shell would take it: spec.args="--lr 0.1". Raises UsageError."""
    patch: Document = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise UsageError(f"--set: {setting!r} is not PATH=VALUE", hint="as in --set spec.gpu.duration=2h")
        place, below = FieldPlace.start(kind), patch
        names = path.removeprefix(".").split(".")
        for name in names:
            try:
                place = place.named(name)
            except UsageError as error:
                raise UsageError(f"--set: {error}", hint=error.hint) from None
        for name in names[:-1]:
            below = below.setdefault(name, {})
            if not isinstance(below, dict):
                raise UsageError(f"--set: {path} lies within a field that is set already")
        if names[-1] in below:
            raise UsageError(f"--set: {path} is set twice")
        below[names[-1]] = _value(path, place.field, text, element=place.element)
    return patch


def _value(path: str, field: SchemaField, text: str, *, element: bool) -> Any:
    if text == "":
        return None
    if field.container == "list" and not element and not text.startswith("["):
        if field.fields:
            raise UsageError(f"--set: {path} is a list of objects", hint="write it as JSON: [{…}]")
        try:
            return shlex.split(text)
        except ValueError as error:
            raise UsageError(f"--set: {path}: {error}") from None
    if (field.container and not element) or field.fields or field.type in ("integer", "number", "boolean"):
        try:
            return json.loads(text)
        except ValueError:
            raise UsageError(f"--set: {path} takes {field.type}, not {text!r}") from None
    return text
