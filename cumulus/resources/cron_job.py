"""GPUCronJob: makes a job at each time of a schedule, as Kubernetes' CronJob does."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cumulus.resources.fields import (
    FieldError,
    Model,
    Text,
    Time,
    TimeZone,
    all_fields,
    check_label_key,
    on_write,
    rule,
)
from cumulus.resources.job import GPUJob, GPUJobSpec
from cumulus.resources.meta import LabelMap, ObjectMeta, Resource
from cumulus.resources.schedule import check_schedule
from cumulus.resources.submitter import DaemonRules, Submitter

LONGEST_NAME = 52
"""How long the name of a GPUCronJob may be: the minute is added for each job's name."""


class ConcurrencyPolicy(StrEnum):
    ALLOW = "Allow"
    FORBID = "Forbid"
    REPLACE = "Replace"


class TemplateMeta(Model):
    """What each job carries."""

    labels: LabelMap = Field(default_factory=dict, description="Labels of each job.")
    annotations: dict[Annotated[str, on_write(check_label_key)], str] = Field(
        default_factory=dict, description="Annotations of each job."
    )


class JobTemplate(Model):
    """What each job is."""

    metadata: TemplateMeta = Field(default_factory=TemplateMeta, description="What each job carries.")
    spec: GPUJobSpec = Field(description="The spec of each job.")


class GPUCronJobSpec(Model):
    """What to run, and when."""

    schedule: Annotated[Text, on_write(check_schedule)] = Field(
        description="Minute, hour, day of the month, month and weekday, as in a crontab: 30 2 * * MON-FRI. Or @hourly, "
        "@daily, @weekly, @monthly, @yearly."
    )
    time_zone: TimeZone = Field("UTC", description="That of the schedule: Europe/Berlin.")
    concurrency_policy: ConcurrencyPolicy = Field(
        ConcurrencyPolicy.ALLOW,
        description="What happens when a job is due while an earlier one is not over. Allow: both run. Forbid: it "
        "waits for the earlier one's end. Replace: it takes the earlier one's place.",
    )
    starting_deadline_seconds: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        None,
        description="A job that could not be made within so many seconds of its time is left out. If left out: "
        "however late it is.",
    )
    suspend: bool = Field(False, description="Make no more jobs. Those that were made go on.")
    successful_jobs_history_limit: int = Field(3, ge=0, le=1000, description="Jobs that succeeded and are kept.")
    failed_jobs_history_limit: int = Field(1, ge=0, le=1000, description="Jobs that failed and are kept.")
    job_template: JobTemplate = Field(description="What each job is.")

    @rule
    def _no_call(self) -> None:
        if self.job_template.spec.call is not None:
            raise FieldError(("jobTemplate", "spec", "call"), "cannot be made by a schedule; give a command")


class GPUCronJobStatus(Model):
    """What the controller did last."""

    active: tuple[str, ...] = Field((), description="Its jobs that are not over, by name.")
    last_schedule_time: Time | None = Field(None, description="The time for which the last job was made.")
    last_successful_time: Time | None = Field(None, description="When a job of it succeeded last.")
    held_time: Time | None = Field(
        None, description="The last time at which a job was due and an earlier one was not over, with Forbid."
    )
    missed_time: Time | None = Field(
        None, description="The last time whose job was left out, since startingDeadlineSeconds had passed."
    )
    next_schedule_time: Time | None = Field(None, description="The next time at which a job is due.")


class GPUCronJob(Resource):
    """Makes a job at each time of a schedule."""

    KIND: ClassVar[str] = "GPUCronJob"
    MUTABLE: ClassVar[frozenset[str]] = all_fields(GPUCronJobSpec)

    kind: Literal["GPUCronJob"] = Field("GPUCronJob", description="Always GPUCronJob.")
    spec: GPUCronJobSpec = Field(description="What to run, and when.")
    status: GPUCronJobStatus = Field(
        default_factory=GPUCronJobStatus, description="What the controller did last. A manifest cannot set it."
    )

    @model_validator(mode="after")
    def _room_for_the_minute(self) -> Self:
        if len(self.metadata.name) > LONGEST_NAME:
            message = (
                f"has {len(self.metadata.name)} characters; at most {LONGEST_NAME}, since its jobs are named after it"
            )
            raise FieldError(("metadata", "name"), message)
        return self

    def job(self, name: str) -> GPUJob:
        """A job of that name, as the template says."""
        made = self.spec.job_template
        meta = ObjectMeta(
            name=name, namespace=self.metadata.namespace, labels=made.metadata.labels,
            annotations=made.metadata.annotations,
        )  # fmt: skip
        return GPUJob(metadata=meta, spec=made.spec)

    def refusal(self, submitter: Submitter, rules: DaemonRules) -> str:
        return self.job(self.metadata.name).refusal(submitter, rules)
