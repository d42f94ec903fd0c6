"""What each index of an array stands for: one of a list of values, or one combination of a matrix. Pure; no model is
loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod

from cumulus.resources.documents import lookup
from cumulus.resources.key import Document

INDEX, COUNT, VALUE = "CUMULUS_ARRAY_INDEX", "CUMULUS_ARRAY_COUNT", "CUMULUS_ARRAY_VALUE"
"""The variables that tell each job its index, how many indexes there are, and its value of the list."""
MATRIX = "CUMULUS_MATRIX_"
"""How the variables of a matrix begin; the name follows in capitals."""

_PLACE = re.compile(r"(\$?)\$\((CUMULUS_(?:ARRAY|MATRIX)_[A-Za-z0-9_]+)\)")
"""$(NAME), and $$(NAME) for that text itself, as Kubernetes has them."""


def number(values: Sequence[str], matrix: Mapping[str, Sequence[str]]) -> int:
    """How many indexes there are; 0 where neither is given."""
    return len(values) or (prod(map(len, matrix.values())) if matrix else 0)


def at(values: Sequence[str], matrix: Mapping[str, Sequence[str]], index: int) -> dict[str, str]:
    """The value of each name of the matrix, or of "" the one of the list. Names go by the alphabet, whatever order
    they are written in, since JSON knows none; the last one changes first."""
    if values:
        return {"": values[index]}
    found: dict[str, str] = {}
    for name in sorted(matrix, reverse=True):
        index, position = divmod(index, len(matrix[name]))
        found[name] = matrix[name][position]
    return {name: found[name] for name in sorted(found)}


def variable(name: str) -> str:
    """The variable that holds the value of that name in a job."""
    return MATRIX + name.upper() if name else VALUE


def words(found: Mapping[str, str]) -> str:
    """lr=0.1, seed=3"""
    return ", ".join(f"{name}={value}" if name else value for name, value in found.items())


def of_array(array: Document, index: int) -> str:
    """The same words for an array's document; "" if it has only indexes, or its spec is damaged."""
    values, matrix = lookup(array, "spec.values") or (), lookup(array, "spec.matrix") or {}
    return words(at(values, matrix, index)) if 0 <= index < number(values, matrix) else ""


def of_job(job: Document) -> str:
    """The same words for a job that an array made, read from its environment; "" for any other job."""
    found: dict[str, str] = {}
    for each in lookup(job, "spec.env") or ():
        name = each["name"]
        if name == VALUE or name.startswith(MATRIX):
            found[name.removeprefix(MATRIX).lower() if name != VALUE else ""] = each.get("value") or ""
    return words(found)


def places(text: str) -> Iterator[str]:
    """The variables that the text refers to."""
    return (found[2] for found in _PLACE.finditer(text) if not found[1])


def filled(text: str, variables: Mapping[str, str]) -> str:
    """The text with each $(NAME) replaced by its value; a name that is no variable stays as it is."""

    def one(found: re.Match[str]) -> str:
        if found[2] not in variables:
            return found[0]
        return found[0][1:] if found[1] else variables[found[2]]

    return _PLACE.sub(one, text) if "$(" in text else text
