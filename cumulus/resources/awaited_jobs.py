"""The jobs and arrays that a job names in `spec.after`. Reads documents; no model is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from cumulus.resources import array_values, index_ranges
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key

FIELDS = {"succeeded": "Succeeded", "finished": "Finished", "failed": "Failed"}
"""The lists of spec.after, each with how its jobs must end."""

ARRAY = "array/"
"""What the name of an array begins with there."""
_JOB_KIND, _ARRAY_KIND = "GPUJob", "GPUJobArray"


def awaited_jobs(document: Document) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Each name, and where it is written, whatever else is wrong with the object: of a job, or of those of an array."""
    path = ("spec", "jobTemplate", "spec", "after") if document.get("kind") == _ARRAY_KIND else ("spec", "after")
    after = lookup(document, path)
    for field in FIELDS if isinstance(after, dict) else ():
        found = after.get(field)
        for index, name in enumerate(found if isinstance(found, list) else ()):
            if isinstance(name, str):
                yield name, (*path, field, index)


def key_of_awaited(namespace: str, name: str) -> Key:
    """Of what is called so there."""
    if name.startswith(ARRAY):
        return Key(_ARRAY_KIND, namespace, name.removeprefix(ARRAY))
    return Key(_JOB_KIND, namespace, name)


def name_of_awaited(key: Key) -> str:
    """What it is called there."""
    return f"{ARRAY}{key.name}" if key.kind == _ARRAY_KIND else key.name


def index_of(key: Key) -> tuple[Key, int] | None:
    """The array that makes, or has made, a job of that name, if there is such an array, and its index."""
    stem, _, index = key.name.rpartition("-")
    is_index = stem and index.isascii() and index.isdecimal() and str(int(index[:9])) == index
    return (Key(_ARRAY_KIND, key.namespace, stem), int(index)) if key.kind == _JOB_KIND and is_index else None


def makes(array: Document, index: int) -> bool:
    """Whether the array has that index."""
    number = array_values.number(lookup(array, "spec.values") or (), lookup(array, "spec.matrix") or {})
    return index < number or index in index_ranges.parse(lookup(array, "spec.indexes") or "")


def phase_of_index(succeeded: str, failed: str, index: int) -> str | None:
    """How an index ended whose job is gone, as its array's status says; None where it did not."""
    if index in index_ranges.parse(succeeded):
        return "Succeeded"
    return "Failed" if index in index_ranges.parse(failed) else None
