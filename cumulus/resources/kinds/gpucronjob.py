"""The registry's entry for GPUCronJob."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cumulus.resources.columns import until
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document
from cumulus.resources.kind import Column, Kind, Related
from cumulus.resources.query import Query
from cumulus.resources.roles import Role
from cumulus.resources.sections import Fields, Section, Surroundings, flat, moment

_JOB = "GPUJob"


def state(cron: Document, now: datetime) -> str:
    if lookup(cron, "spec.suspend"):
        return "Suspended"
    following = lookup(cron, "status.nextScheduleTime")
    return f"next in {until(following, now)}" if following else "no status yet"


def sections(cron: Document, around: Surroundings) -> Iterator[Section]:
    status, now = cron.get("status") or {}, around.now
    yield Fields(
        [
            ("Active", ", ".join(status.get("active") or ())),
            ("Last schedule", moment(status.get("lastScheduleTime"), now)),
            ("Last success", moment(status.get("lastSuccessfulTime"), now)),
            ("Next", f"in {until(status['nextScheduleTime'], now)}" if status.get("nextScheduleTime") else ""),
        ]
    )
    yield Fields(flat(cron.get("spec") or {}), "Spec")


KIND = Kind(
    "GPUCronJob",
    "gpucronjobs",
    ("cronjobs", "cronjob", "cj"),
    True,
    "cumulus.resources.cron_job",
    (
        Column("SCHEDULE", "spec.schedule", yields=1),
        Column("TIMEZONE", "spec.timeZone", yields=4),
        Column("SUSPEND", cell=lambda cron, _: str(bool(lookup(cron, "spec.suspend"))), fit="whole", yields=2),
        Column("ACTIVE", cell=lambda c, _: str(len(lookup(c, "status.active") or ())), fit="whole", yields=0),
        Column("LAST SCHEDULE", "status.lastScheduleTime", form="age", fit="whole", yields=1),
        Column("NEXT", "status.nextScheduleTime", form="until", fit="whole", yields=1),
        Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=5),
    ),
    writers=Role.USER,
    noun="cron job",
    # Its jobs are its submitter's: nobody else says what they are.
    reads_as_submitter=frozenset({"jobTemplate"}),
    sealed=frozenset({"status.lastScheduleTime", "status.active"}),
    job_template=True,
    related=Related("Jobs", lambda cron: Query(_JOB, owner_uid=cron["metadata"]["uid"])),
    sections=sections,
    state=state,
)
