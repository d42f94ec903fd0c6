"""The jobs that a job names in `spec.after`. Reads documents; no model is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from cumulus.resources.documents import lookup
from cumulus.resources.key import Document

FIELDS = {"succeeded": "Succeeded", "finished": "Finished", "failed": "Failed"}
"""The lists of spec.after, each with how its jobs must end."""


def awaited_jobs(job: Document) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Each job's name, and where it is written; whatever else is wrong with the object."""
    after = lookup(job, "spec.after")
    for field in FIELDS if isinstance(after, dict) else ():
        found = after.get(field)
        for index, name in enumerate(found if isinstance(found, list) else ()):
            if isinstance(name, str):
                yield name, ("spec", "after", field, index)
