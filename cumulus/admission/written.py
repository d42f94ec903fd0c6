"""Values as somebody wrote them, so that a message can quote them: a YAML node, or plain JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cumulus.admission.problems import FieldPath


class Written(Protocol):
    """One value. `text` is a scalar as written; `plain`: without quotes; `broken`: what is wrong with it was told."""

    @property
    def value(self) -> Mapping[str, Written] | Sequence[Written] | str | int | float | bool | None: ...
    @property
    def text(self) -> str: ...
    @property
    def plain(self) -> bool: ...
    @property
    def broken(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Json:
    """A value of a JSON document."""

    value: Any
    text: str
    plain: bool
    broken: bool = False

    @classmethod
    def of(cls, value: Any) -> Json:
        if isinstance(value, dict):
            return cls({key: cls.of(below) for key, below in value.items()}, "", False)
        if isinstance(value, list | tuple):
            return cls([cls.of(below) for below in value], "", False)
        if isinstance(value, str):
            return cls(value, value, False)
        return cls(value, json.dumps(value, default=str), True)


def at(root: Written, path: FieldPath) -> Written | None:
    """The value at `path`, None where there is none."""
    found: Written | None = root
    for step in path:
        found = _step(found, step) if found is not None else None
    return found


def is_broken(root: Written, path: FieldPath) -> bool:
    """Whether a problem with the value at `path`, or with one around it, was told already."""
    found: Written | None = root
    for step in path:
        if found is None or found.broken:
            break
        found = _step(found, step)
    return found is not None and found.broken


def broken_paths(root: Written, path: FieldPath = ()) -> Iterator[FieldPath]:
    if root.broken:
        yield path
    if isinstance(root.value, dict):
        for key, below in root.value.items():
            yield from broken_paths(below, (*path, key))
    elif isinstance(root.value, list):
        for index, below in enumerate(root.value):
            yield from broken_paths(below, (*path, index))


def _step(value: Written, step: str | int) -> Written | None:
    if isinstance(value.value, dict) and step in value.value:
        found: Written = value.value[str(step)]
        return found
    if isinstance(value.value, list) and isinstance(step, int) and step < len(value.value):
        return value.value[step]  # type: ignore[no-any-return]
    return None
