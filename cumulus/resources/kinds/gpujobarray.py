"""The registry's entry for GPUJobArray."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice

from cumulus.resources import array_values, index_ranges
from cumulus.resources.condition_types import ArrayCondition
from cumulus.resources.documents import condition, lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import CellView, Column, Kind, Related
from cumulus.resources.query import Query
from cumulus.resources.roles import Role
from cumulus.resources.sections import Fields, Rows, Section, Surroundings, flat, moment

_JOB = "GPUJob"
_SHOWN = 20
"""Indexes of one state of which `describe` shows the values."""


def _count(name: str) -> Column:
    def cell(array: Document, _: CellView) -> str:
        return str(len(index_ranges.parse(lookup(array, f"status.{name}") or "")))

    return Column(name.upper(), cell=cell, fit="whole", yields=0)


def indexes(array: Document) -> str:
    """0-99; of values, 0-11 (lr, seed)."""
    values, matrix = lookup(array, "spec.values") or (), lookup(array, "spec.matrix") or {}
    number = array_values.number(values, matrix)
    if not number:
        return str(lookup(array, "spec.indexes") or "")
    names = f" ({', '.join(sorted(matrix))})" if matrix else ""
    return f"{index_ranges.Indexes([(0, number)])}{names}"


def state(array: Document, now: datetime) -> str:
    return str(lookup(array, "status.phase") or "no status yet")


def sections(array: Document, around: Surroundings) -> Iterator[Section]:
    status = array.get("status") or {}
    made = condition(array, ArrayCondition.JOBS_MADE) or {}
    yield Fields(
        [
            ("Phase", status.get("phase", "")),
            ("Waiting", str(status.get("waiting", ""))),
            ("Active", status.get("active", "")),
            ("Succeeded", status.get("succeeded", "")),
            ("Failed", status.get("failed", "")),
            ("Not made", str(made.get("message", "")) if made.get("status") == "False" else ""),
            ("Completed", moment(status.get("completionTime"), around.now)),
        ]
    )
    if rows := list(_values(array)):
        yield Rows("Values", ("INDEX", "STATE", "VALUES"), rows)
    yield Fields(flat(array.get("spec") or {}), "Spec")


def _values(array: Document) -> Iterator[list[str]]:
    """What the indexes stand for that have a job or had one: those that may be looked for first."""
    for name in ("failed", "active", "succeeded"):
        found = index_ranges.parse(lookup(array, f"status.{name}") or "")
        for index in islice(found, _SHOWN):
            if said := array_values.of_array(array, index):
                yield [str(index), name, said]
            else:
                return
        if len(found) > _SHOWN:
            yield ["…", name, f"and {len(found) - _SHOWN} more: cumulus get jobs -o wide"]


KIND = Kind(
    "GPUJobArray",
    "gpujobarrays",
    ("arrays", "array"),
    True,
    "cumulus.resources.job_array",
    (
        Column("PHASE", "status.phase", fit="whole", yields=0),
        Column("INDEXES", cell=lambda array, _: indexes(array), yields=3),
        Column("WAITING", "status.waiting", fit="whole", yields=0),
        _count("active"),
        _count("succeeded"),
        _count("failed"),
        Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=5),
    ),
    writers=Role.USER,
    noun="job array",
    logs_hint="each of its indexes is a job, as in: cumulus logs {name}-0",
    # Its jobs are its submitter's: nobody else says what they are.
    reads_as_submitter=frozenset({"jobTemplate"}),
    sealed=frozenset({"status.active", "status.succeeded", "status.failed"}),
    job_template=True,
    related=Related("Jobs", lambda array: Query(_JOB, owner_uid=array["metadata"]["uid"])),
    sections=sections,
    conditions=tuple(ArrayCondition),
    state=state,
    final_phases=frozenset({"Succeeded", "Failed"}),
    failed_phases=frozenset({"Failed"}),
)
