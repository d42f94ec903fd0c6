"""GPUJobArray: one job for each of many indexes, some of them at once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cumulus.resources import index_ranges
from cumulus.resources.cron_job import JobTemplate
from cumulus.resources.fields import FieldError, Model, Text, Time, on_write, rule
from cumulus.resources.job import Env, GPUJob
from cumulus.resources.meta import Condition, ObjectMeta, Resource
from cumulus.resources.submitter import DaemonRules, Submitter

INDEX, COUNT = "CUMULUS_ARRAY_INDEX", "CUMULUS_ARRAY_COUNT"
"""What each job finds of its index, and of how many there are."""

LONGEST_NAME = 56
"""What is left of a job's name beside the index."""


class GPUJobArraySpec(Model):
    """What to run for each index."""

    indexes: Annotated[Text, on_write(index_ranges.check)] = Field(
        max_length=2000, description="The indexes: 0-99, or 1,3,5-7, or 0-20:5. At most 100,000."
    )
    parallelism: int = Field(10, ge=1, le=1000, description="Jobs at once: those that wait or run.")
    suspend: bool = Field(False, description="Make no more jobs. Those that were made go on.")
    successful_jobs_history_limit: int = Field(
        100, ge=0, le=1000, description="Jobs that succeeded and are kept with their logs: the last so many."
    )
    failed_jobs_history_limit: int = Field(
        100, ge=0, le=1000, description="Jobs that failed and are kept with their logs: the last so many."
    )
    job_template: JobTemplate = Field(description=f"What each job is. It finds its index in {INDEX}.")

    @rule
    def _what_a_job_of_an_array_is(self) -> None:
        spec, at = self.job_template.spec, ("jobTemplate", "spec")
        if spec.call is not None:
            raise FieldError((*at, "call"), "cannot be made by an array; give a command")
        if spec.tty:
            raise FieldError((*at, "tty"), "is not for the jobs of an array: there is one terminal")
        if spec.ttl_after_finished is not None:
            message = "is not for the jobs of an array: successfulJobsHistoryLimit and failedJobsHistoryLimit say it"
            raise FieldError((*at, "ttlAfterFinished"), message)
        for index, variable in enumerate(spec.env):
            if variable.name in (INDEX, COUNT):
                raise FieldError((*at, "env", index, "name"), f"{variable.name} is set by the array; remove it")


class ArrayPhase(StrEnum):
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class GPUJobArrayStatus(Model):
    """How far it is."""

    phase: ArrayPhase = Field(
        ArrayPhase.RUNNING, description="Running, Suspended, Succeeded (every index did), or Failed (one did not)."
    )
    waiting: int = Field(0, description="Indexes that have no job yet.")
    active: str = Field("", description="Indexes whose jobs wait or run.")
    succeeded: str = Field("", description="Indexes whose jobs succeeded.")
    failed: str = Field("", description="Indexes whose jobs failed, or were deleted before they ended.")
    completion_time: Time | None = Field(None, description="When the last index ended.")
    conditions: tuple[Condition, ...] = Field((), description="JobsMade, once a job could not be made.")


class GPUJobArray(Resource):
    """One job for each of many indexes."""

    KIND: ClassVar[str] = "GPUJobArray"
    MUTABLE: ClassVar[frozenset[str]] = frozenset(
        {"parallelism", "suspend", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"}
    )

    kind: Literal["GPUJobArray"] = Field("GPUJobArray", description="Always GPUJobArray.")
    spec: GPUJobArraySpec = Field(description="What to run for each index.")
    status: GPUJobArrayStatus = Field(
        default_factory=GPUJobArrayStatus, description="How far it is. A manifest cannot set it."
    )

    @model_validator(mode="after")
    def _room_for_the_index(self) -> Self:
        if len(self.metadata.name) > LONGEST_NAME:
            message = (
                f"has {len(self.metadata.name)} characters; at most {LONGEST_NAME}, since its jobs are named after it"
            )
            raise FieldError(("metadata", "name"), message)
        return self

    def job_name(self, index: int) -> str:
        return f"{self.metadata.name}-{index}"

    def job(self, index: int, count: int) -> GPUJob:
        """The job of that index, of so many."""
        made = self.spec.job_template
        meta = ObjectMeta(
            name=self.job_name(index), namespace=self.metadata.namespace, labels=made.metadata.labels,
            annotations=made.metadata.annotations,
        )  # fmt: skip
        env = (*made.spec.env, Env(name=INDEX, value=str(index)), Env(name=COUNT, value=str(count)))
        return GPUJob(metadata=meta, spec=made.spec.model_copy(update={"env": env}))

    def refusal(self, submitter: Submitter, rules: DaemonRules) -> str:
        return self.job(0, 1).refusal(submitter, rules)
