"""The registry's entry for GPUJobArray."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cumulus.resources import index_ranges
from cumulus.resources.condition_types import ArrayCondition
from cumulus.resources.documents import condition, lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import Column, Kind, Related, View
from cumulus.resources.query import Query
from cumulus.resources.roles import Role
from cumulus.resources.sections import Fields, Section, Surroundings, flat, moment

_JOB = "GPUJob"


def _count(name: str) -> Column:
    def cell(array: Document, _: View) -> str:
        return str(len(index_ranges.parse(lookup(array, f"status.{name}") or "")))

    return Column(name.upper(), cell=cell, fit="whole", yields=0)


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
    yield Fields(flat(array.get("spec") or {}), "Spec")


KIND = Kind(
    "GPUJobArray",
    "gpujobarrays",
    ("arrays", "array"),
    True,
    "cumulus.resources.job_array",
    (
        Column("PHASE", "status.phase", fit="whole", yields=0),
        Column("INDEXES", "spec.indexes", yields=3),
        Column("WAITING", "status.waiting", fit="whole", yields=0),
        _count("active"),
        _count("succeeded"),
        _count("failed"),
        Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=5),
    ),
    writers=Role.USER,
    noun="job array",
    # Its jobs are its submitter's: nobody else says what they are.
    reads_as_submitter=frozenset({"jobTemplate"}),
    sealed=frozenset({"status.active", "status.succeeded", "status.failed"}),
    related=Related("Jobs", lambda array: Query(_JOB, owner_uid=array["metadata"]["uid"])),
    sections=sections,
    conditions=tuple(ArrayCondition),
    state=state,
    final_phases=frozenset({"Succeeded", "Failed"}),
    failed_phases=frozenset({"Failed"}),
)
