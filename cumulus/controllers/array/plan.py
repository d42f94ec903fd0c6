"""The next step of one GPUJobArray, from its jobs: pure, no I/O.

The name of a job says its index, and a job is made together with the status that says so. So no index runs twice,
whatever happens between two steps. A job that is over goes only once the status says how it ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from cumulus.clock import timestamp
from cumulus.resources import index_ranges
from cumulus.resources.condition_types import ArrayCondition
from cumulus.resources.conditions import condition_set
from cumulus.resources.index_ranges import Indexes
from cumulus.resources.job import GPUJob
from cumulus.resources.job_array import ArrayPhase, GPUJobArray, GPUJobArrayStatus
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import Condition, condition
from cumulus.resources.reasons import ArrayReason

AT_ONCE = 50
"""Jobs that are made in one transaction."""
_NAMED = 3
"""Jobs that are in the way."""


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    status: GPUJobArrayStatus
    create: tuple[int, ...] = ()
    """Make jobs for these indexes, with `status`, in one transaction."""
    forget: tuple[GPUJob, ...] = ()
    """Jobs that are over, recorded as such, and more than are kept."""
    blocked: bool = False
    """Other jobs have the names of some that are next."""


def plan(
    array: GPUJobArray, jobs: Mapping[int, GPUJob], now: datetime, taken: Collection[int] = frozenset(),
    refused: str | None = None,
) -> ArrayPlan:  # fmt: skip
    """The next step of an array that is not being deleted. `jobs`: all that it owns, by index. `taken`: indexes after
    which jobs of others are named: they wait until the name is free. `refused`: why no job can be made now."""
    # Ranges, never one index at a time: there may be 100,000.
    spec, old = array.spec, array.status
    recorded = index_ranges.parse(old.succeeded), index_ranges.parse(old.failed)
    there = Indexes.of(jobs)
    # What was made and is not there any more was deleted before it was seen to end.
    gone = index_ranges.parse(old.active) - there
    how: dict[JobPhase | None, list[int]] = {JobPhase.SUCCEEDED: [], JobPhase.FAILED: [], None: []}
    for index, job in jobs.items():
        phase = job.status.phase
        how[None if not phase.finished else phase if phase is JobPhase.SUCCEEDED else JobPhase.FAILED].append(index)
    succeeded = (recorded[0] - there) | Indexes.of(how[JobPhase.SUCCEEDED])
    failed = (recorded[1] - there) | gone | Indexes.of(how[JobPhase.FAILED])
    active = Indexes.of(how[None])
    waiting = spec.wanted - (succeeded | failed | active)
    free = max(0, min(AT_ONCE, spec.parallelism - len(active)))
    stays = spec.suspend or refused is not None
    create = () if stays else tuple(islice((index for index in waiting if index not in taken), free))
    blocked = [] if spec.suspend else [index for index in sorted(taken) if index in waiting]
    over = not waiting and not active
    state = ArrayPhase.SUSPENDED if spec.suspend else ArrayPhase.RUNNING
    if over:
        state = ArrayPhase.FAILED if failed else ArrayPhase.SUCCEEDED
    status = GPUJobArrayStatus(
        phase=state, waiting=len(waiting) - len(create), active=str(active | Indexes.of(create)),
        succeeded=str(succeeded), failed=str(failed),
        completion_time=(old.completion_time or timestamp(now)) if over else None,
        conditions=_conditions(array, now, blocked, refused, made=bool(create) or over),
    )  # fmt: skip
    forget = (
        *_too_many(jobs, recorded[0], JobPhase.SUCCEEDED, spec.successful_jobs_history_limit),
        *_too_many(jobs, recorded[1], JobPhase.FAILED, spec.failed_jobs_history_limit),
    )
    return ArrayPlan(status, create, forget, bool(blocked))


def _conditions(
    array: GPUJobArray, now: datetime, blocked: list[int], refused: str | None, *, made: bool
) -> tuple[Condition, ...]:
    """With what is in the way; after that, that it is not any more. None where nothing ever was."""
    old = array.status.conditions
    if refused is not None:
        return condition_set(old, timestamp(now), ArrayCondition.JOBS_MADE, False, ArrayReason.REFUSED, refused)
    if blocked:
        names = ", ".join(map(array.job_name, blocked[:_NAMED]))
        more = f" and {len(blocked) - _NAMED} more" if len(blocked) > _NAMED else ""
        message = f"other jobs are named {names}{more}; those indexes wait until the names are free"
        return condition_set(old, timestamp(now), ArrayCondition.JOBS_MADE, False, ArrayReason.NAME_TAKEN, message)
    said = condition(old, ArrayCondition.JOBS_MADE)
    if said is not None and (made or said.reason == ArrayReason.NAME_TAKEN):
        return condition_set(old, timestamp(now), ArrayCondition.JOBS_MADE, True, ArrayReason.MADE)
    return old


def _too_many(jobs: Mapping[int, GPUJob], recorded: Indexes, phase: JobPhase, limit: int) -> tuple[GPUJob, ...]:
    """Those that ended first, of those in that phase that are recorded as such, beyond the limit."""
    over = [job for index, job in jobs.items() if index in recorded and job.status.phase is phase and not job.deleting]
    over.sort(key=lambda job: (job.status.completion_time or "", job.metadata.name))
    return tuple(over[: max(0, len(over) - limit)])
