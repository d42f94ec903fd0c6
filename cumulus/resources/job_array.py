"""GPUJobArray: one job for each of many indexes, some of them at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cumulus.resources import array_values, index_ranges
from cumulus.resources.array_values import COUNT, INDEX, MATRIX, VALUE
from cumulus.resources.awaited_jobs import ARRAY, FIELDS
from cumulus.resources.cron_job import JobTemplate
from cumulus.resources.fields import FieldError, Model, Scalar, Text, Time, on_write, rule
from cumulus.resources.index_ranges import Indexes
from cumulus.resources.job import Env, GPUJob, GPUJobSpec
from cumulus.resources.meta import Condition, ObjectMeta, Resource
from cumulus.resources.submitter import DaemonRules, Submitter

LONGEST_NAME = 56
"""What is left of a job's name beside the index."""
MOST_VALUES = 10_000
"""Of one list."""
MOST_NAMES = 10
"""Of a matrix."""
MOST_TEXT = 2**18
"""Characters of all values."""

_AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class GPUJobArraySpec(Model):
    """What to run for each index."""

    indexes: Annotated[Text, on_write(index_ranges.check)] | None = Field(
        None, max_length=2000, description="The indexes: 0-99, or 1,3,5-7, or 0-20:5. At most 100,000."
    )
    values: tuple[Scalar, ...] = Field(
        (),
        description=f"Instead of indexes: a value for each index from 0 on, which the job finds in {VALUE}. At most "
        "10,000.",
    )
    matrix: dict[str, tuple[Scalar, ...]] = Field(
        default_factory=dict,
        description="Instead of indexes: an index for each combination of these values, from 0 on. The job finds the "
        f"value of lr in {MATRIX}LR. Names go by the alphabet, and the value of the last one changes first. At most 10 "
        "names and 100,000 combinations.",
    )
    parallelism: int = Field(
        10, ge=1, le=index_ranges.MOST_AT_ONCE, description="Jobs at once: those that wait or run."
    )
    suspend: bool = Field(False, description="Make no more jobs. Those that were made go on.")
    successful_jobs_history_limit: int = Field(
        100, ge=0, le=1000, description="Jobs that succeeded and are kept with their logs: the last so many."
    )
    failed_jobs_history_limit: int = Field(
        100, ge=0, le=1000, description="Jobs that failed and are kept with their logs: the last so many."
    )
    job_template: JobTemplate = Field(
        description=f"What each job is. It finds its index in {INDEX}. In command, args, env, workingDir and "
        f"checkpoint, $({INDEX}) stands for it; so does $({VALUE}) or $({MATRIX}LR) for a value."
    )

    @property
    def wanted(self) -> Indexes:
        """All indexes."""
        if self.indexes is not None:
            return index_ranges.parse(self.indexes)
        return Indexes([(0, array_values.number(self.values, self.matrix))])

    def variables(self, index: int) -> dict[str, str]:
        """What the job of the index finds in its environment."""
        found = array_values.at(self.values, self.matrix, index)
        return {
            INDEX: str(index), COUNT: str(len(self.wanted)),
            **{array_values.variable(name): value for name, value in found.items()},
        }  # fmt: skip

    @rule
    def _one_way_to_say_what_the_indexes_are(self) -> None:
        given = [
            name
            for name, there in (("indexes", self.indexes is not None), ("values", self.values), ("matrix", self.matrix))
            if there
        ]
        if not given:
            raise FieldError(("indexes",), "is required, or values or matrix in its place; write 0-99")
        if len(given) > 1:
            raise FieldError((given[1],), f"cannot be given together with {given[0]}; keep one of them")

    @rule
    def _the_values_have_room(self) -> None:
        for at, values in ((("values",), self.values), *((("matrix", n), v) for n, v in self.matrix.items())):
            if len(values) > MOST_VALUES:
                raise FieldError(at, f"has {len(values):,} values; at most {MOST_VALUES:,}")
            if not values and at != ("values",):
                raise FieldError(at, "has no value; give one, or remove the name")
        if len(self.matrix) > MOST_NAMES:
            raise FieldError(("matrix",), f"has {len(self.matrix)} names; at most {MOST_NAMES}")
        number = array_values.number(self.values, self.matrix)
        if number > index_ranges.MOST:
            raise FieldError(("matrix",), f"has {number:,} combinations; at most {index_ranges.MOST:,}")
        size = sum(len(str(value)) for values in (self.values, *self.matrix.values()) for value in values)
        if size > MOST_TEXT:
            at_fault = "values" if self.values else "matrix"
            raise FieldError((at_fault,), f"has {size:,} characters; at most {MOST_TEXT:,}: give names of files, say")

    @rule
    def _each_name_makes_a_variable(self) -> None:
        seen: dict[str, str] = {}
        for name in self.matrix:
            if not _AXIS.fullmatch(name):
                message = f"{name[:80]!r} is no name here; use at most 63 letters, digits and '_', no digit first"
                raise FieldError(("matrix", name), message)
            other = seen.setdefault(array_values.variable(name), name)
            if other != name:
                message = f"is in the same variable as {other}, {array_values.variable(name)}; rename one of them"
                raise FieldError(("matrix", name), message)

    @rule
    def _what_a_job_of_an_array_is(self) -> None:
        spec, at = self.job_template.spec, ("jobTemplate", "spec")
        if spec.call is not None:
            raise FieldError((*at, "call"), "cannot be made by an array; give a command")
        if spec.tty:
            raise FieldError((*at, "tty"), "is not for the jobs of an array: there is one terminal")
        if spec.stdin:
            raise FieldError((*at, "stdin"), "is not for the jobs of an array: there is one input")
        if spec.ttl_after_finished is not None:
            message = "is not for the jobs of an array: successfulJobsHistoryLimit and failedJobsHistoryLimit say it"
            raise FieldError((*at, "ttlAfterFinished"), message)
        own = _variables(self.values, self.matrix)
        for index, variable in enumerate(spec.env):
            if variable.name in own:
                raise FieldError((*at, "env", index, "name"), f"{variable.name} is set by the array; remove it")
        for path, text in _texts(spec):
            for name in array_values.places(text):
                if name not in own:
                    known = ", ".join(f"$({each})" for each in own)
                    raise FieldError((*at, *path), f"$({name}) stands for nothing in this array; there are {known}")


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

    @rule
    def _after_none_of_its_own(self) -> None:
        after = self.spec.job_template.spec.after
        for field in FIELDS if after is not None else ():
            for position, name in enumerate(getattr(after, field)):
                stem, _, index = name.rpartition("-")
                if name == f"{ARRAY}{self.metadata.name}" or (stem == self.metadata.name and index.isdecimal()):
                    path = ("spec", "jobTemplate", "spec", "after", field, position)
                    raise FieldError(path, "is a part of the array itself; remove it")

    def job_name(self, index: int) -> str:
        return f"{self.metadata.name}-{index}"

    def job(self, index: int) -> GPUJob:
        """The job of that index."""
        made, variables = self.spec.job_template, self.spec.variables(index)
        meta = ObjectMeta(
            name=self.job_name(index), namespace=self.metadata.namespace, labels=made.metadata.labels,
            annotations=made.metadata.annotations,
        )  # fmt: skip
        spec = _filled(made.spec, variables)
        env = (*spec.env, *(Env(name=name, value=value) for name, value in variables.items()))
        return GPUJob(metadata=meta, spec=spec.model_copy(update={"env": env}))

    def refusal(self, submitter: Submitter, rules: DaemonRules) -> str:
        return self.job(next(iter(self.spec.wanted), 0)).refusal(submitter, rules)


def _variables(values: tuple[str, ...], matrix: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """All that an array sets."""
    return INDEX, COUNT, *((VALUE,) if values else ()), *(array_values.variable(name) for name in sorted(matrix))


def _texts(spec: GPUJobSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is filled in for each index, with the path of each."""
    for field in ("command", "args"):
        yield from (((field, index), text) for index, text in enumerate(getattr(spec, field)))
    yield from ((("env", i, "value"), each.value) for i, each in enumerate(spec.env) if each.value is not None)
    if spec.working_dir is not None:
        yield ("workingDir",), spec.working_dir
    if spec.checkpoint is not None:
        for field in ("path", "uri"):
            if (text := getattr(spec.checkpoint, field)) is not None:
                yield ("checkpoint", field), text


def _filled(spec: GPUJobSpec, variables: dict[str, str]) -> GPUJobSpec:
    def fill(text: str | None) -> str | None:
        return None if text is None else array_values.filled(text, variables)

    changed: dict[str, object] = {
        "command": tuple(array_values.filled(text, variables) for text in spec.command),
        "args": tuple(array_values.filled(text, variables) for text in spec.args),
        "env": tuple(each.model_copy(update={"value": fill(each.value)}) for each in spec.env),
        "working_dir": fill(spec.working_dir),
    }
    if spec.checkpoint is not None:
        places = {"path": fill(spec.checkpoint.path), "uri": fill(spec.checkpoint.uri)}
        changed["checkpoint"] = spec.checkpoint.model_copy(update=places)
    return spec.model_copy(update=changed)
