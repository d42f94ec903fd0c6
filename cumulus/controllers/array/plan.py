"""The next step of one GPUJobArray, from its jobs: pure, no I/O.

The name of a job says its index, and a job is made together with the status that says so. So no index runs twice,
whatever happens between two steps. A job that is over goes only once the status says how it ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cumulus.clock import timestamp
from cumulus.resources import index_ranges
from cumulus.resources.job import GPUJob
from cumulus.resources.job_array import ArrayPhase, GPUJobArray, GPUJobArrayStatus
from cumulus.resources.job_phase import JobPhase

AT_ONCE = 50
"""Jobs that are made in one transaction."""


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    status: GPUJobArrayStatus
    create: tuple[int, ...] = ()
    """Make jobs for these indexes, with `status`, in one transaction."""
    forget: tuple[GPUJob, ...] = ()
    """Jobs that are over, recorded as such, and more than are kept."""


def plan(array: GPUJobArray, jobs: Mapping[int, GPUJob], now: datetime) -> ArrayPlan:
    """The next step of an array that is not being deleted. `jobs`: all that it owns, by index."""
    spec, old = array.spec, array.status
    wanted = index_ranges.parse(spec.indexes)
    succeeded, failed = set(index_ranges.parse(old.succeeded)), set(index_ranges.parse(old.failed))
    # What was made and is not there any more was deleted before it was seen to end.
    failed |= index_ranges.parse(old.active) - jobs.keys()
    active: set[int] = set()
    for index, job in jobs.items():
        succeeded.discard(index)
        failed.discard(index)
        how = job.status.phase
        (succeeded if how is JobPhase.SUCCEEDED else failed if how.finished else active).add(index)
    waiting = sorted(wanted - succeeded - failed - active)
    create = () if spec.suspend else tuple(waiting[: max(0, min(AT_ONCE, spec.parallelism - len(active)))])
    over = not waiting and not active
    phase = ArrayPhase.SUSPENDED if spec.suspend else ArrayPhase.RUNNING
    if over:
        phase = ArrayPhase.FAILED if failed else ArrayPhase.SUCCEEDED
    status = GPUJobArrayStatus(
        phase=phase, waiting=len(waiting) - len(create), active=index_ranges.words({*active, *create}),
        succeeded=index_ranges.words(succeeded), failed=index_ranges.words(failed),
        completion_time=(old.completion_time or timestamp(now)) if over else None,
    )  # fmt: skip
    forget = (
        *_too_many(jobs, index_ranges.parse(old.succeeded), JobPhase.SUCCEEDED, spec.successful_jobs_history_limit),
        *_too_many(jobs, index_ranges.parse(old.failed), JobPhase.FAILED, spec.failed_jobs_history_limit),
    )
    return ArrayPlan(status, create, forget)


def _too_many(jobs: Mapping[int, GPUJob], recorded: frozenset[int], phase: JobPhase, limit: int) -> tuple[GPUJob, ...]:
    """Those that ended first, of those in that phase that are recorded as such, beyond the limit."""
    over = [job for index, job in jobs.items() if index in recorded and job.status.phase is phase and not job.deleting]
    over.sort(key=lambda job: (job.status.completion_time or "", job.metadata.name))
    return tuple(over[: max(0, len(over) - limit)])
