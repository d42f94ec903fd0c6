"""The jobs that a job waits for, and how far each of them is. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field

from cumulus.resources.awaited_jobs import ARRAY, FIELDS
from cumulus.resources.fields import FieldError, Model, check_name, rule
from cumulus.resources.job_phase import FINAL_PHASES

MOST = 100
"""Jobs in one list."""


def _check(name: object) -> object:
    """Raises ValueError."""
    if isinstance(name, str):
        check_name(name.removeprefix(ARRAY))
    return name


_Jobs = Annotated[tuple[Annotated[str, BeforeValidator(_check)], ...], Field(max_length=MOST)]


class After(Model):
    """Jobs of the same namespace that a job waits for, and arrays as array/NAME. It waits for all that are named."""

    succeeded: _Jobs = Field((), description="Jobs that must have succeeded. If one of them fails, this job fails.")
    finished: _Jobs = Field((), description="Jobs that must be over, whatever came of them.")
    failed: _Jobs = Field((), description="Jobs that must have failed. If one of them succeeds, this job fails.")

    @property
    def jobs(self) -> Iterator[tuple[str, str]]:
        """Each job's name, and how it must end."""
        for field, wants in FIELDS.items():
            yield from ((name, wants) for name in getattr(self, field))

    @rule
    def _each_once(self) -> None:
        seen: set[str] = set()
        for field in FIELDS:
            for index, name in enumerate(getattr(self, field)):
                if name in seen:
                    raise FieldError((field, index), f"names the job {name} a second time; keep one")
                seen.add(name)


class DependencyState(StrEnum):
    MISSING = "Missing"
    """There is no such job yet."""
    UNFINISHED = "Unfinished"
    """It is not over."""
    MET = "Met"
    """It ended as it was to. This stays, whatever becomes of that job."""
    UNMET = "Unmet"
    """It ended otherwise."""
    DELETED = "Deleted"
    """It was there, and was deleted before it ended as it was to."""


class Dependency(Model):
    """One job or array that a job waits for."""

    name: str = Field(description="The job's name, or array/NAME.")
    wants: str = Field(description="How it must end: Succeeded, Failed, or Finished for either.")
    state: DependencyState = Field(description="Missing, Unfinished, Met, Unmet or Deleted.")


def progress(after: After, known: Sequence[Dependency] | None, phases: Mapping[str, str]) -> tuple[Dependency, ...]:
    """How far each job is that a job waits for. `known`: how far they were; `phases`: of those that are there now."""
    before = {each.name: each.state for each in known or ()}
    return tuple(
        Dependency(name=name, wants=wants, state=_state(wants, before.get(name), phases.get(name)))
        for name, wants in after.jobs
    )


def waiting_words(found: Sequence[Dependency] | None) -> str:
    """`for prepare to succeed, for eval to end (there is no such job yet)`; "" where it waits for nobody."""
    return _listed(
        f"for {each.name} to {_TO[each.wants]}{_absent(each)}"
        for each in found or () if each.state is not DependencyState.MET
    )  # fmt: skip


def broken_words(found: Sequence[Dependency] | None) -> str:
    """Why a job will never start: what it waits for can't be met any more. "" where it still can."""
    return _listed(
        f"{each.name} was deleted before it was seen to {_TO[each.wants]}"
        if each.state is DependencyState.DELETED
        else f"{each.name} {'failed' if each.wants == 'Succeeded' else 'succeeded'}, and had to {_TO[each.wants]}"
        for each in found or () if each.state in (DependencyState.UNMET, DependencyState.DELETED)
    )  # fmt: skip


def _absent(each: Dependency) -> str:
    if each.state not in _ABSENT:
        return ""
    return f" (there is no such {'array' if each.name.startswith(ARRAY) else 'job'} yet)"


_TO = {"Succeeded": "succeed", "Finished": "end", "Failed": "fail"}
_ABSENT = (DependencyState.MISSING, DependencyState.DELETED)
_SHOWN = 5


def _state(wants: str, before: DependencyState | None, phase: str | None) -> DependencyState:
    if before is DependencyState.MET:
        return before
    if phase is None:
        return DependencyState.MISSING if before in (None, DependencyState.MISSING) else DependencyState.DELETED
    if phase not in FINAL_PHASES:
        return DependencyState.UNFINISHED
    return DependencyState.MET if wants in (phase, "Finished") else DependencyState.UNMET


def _listed(words: Iterator[str]) -> str:
    found = list(words)
    more = [f"{len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return ", ".join([*found[:_SHOWN], *more])
