"""The next step of one GPUCronJob, from its jobs and the time: pure, no I/O.

The name of a job says for which minute it is, and a job is made together with the status that says so. So nothing is
made twice, whatever happens between two steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cumulus.clock import parse_timestamp, short_timestamp, timestamp
from cumulus.resources.cron_job import ConcurrencyPolicy, GPUCronJob, GPUCronJobStatus
from cumulus.resources.job import GPUJob
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.reasons import EventReason
from cumulus.resources.schedule import following, latest

LONGEST_WAIT = 30.0
"""Seconds until the next look at most: the clock may be set while a controller waits."""

CLOCK_WAS_WRONG = timedelta(hours=1)
"""A last schedule that is so far ahead was written by a clock that was wrong."""


@dataclass(frozen=True, slots=True)
class CronPlan:
    status: GPUCronJobStatus
    due: datetime | None = None
    """Make a job for this time, with `status`, in one transaction."""
    replace: tuple[GPUJob, ...] = ()
    """What it takes the place of."""
    forget: tuple[GPUJob, ...] = ()
    """Jobs that are over, and more than are kept."""
    wake: float | None = None
    told: tuple[tuple[EventReason, str], ...] = ()
    """Events, once the status is written."""


def plan(cron: GPUCronJob, jobs: Sequence[GPUJob], now: datetime) -> CronPlan:
    """The next step of a cron job that is not being deleted. `jobs`: all that it owns."""
    spec = cron.spec
    live = [job for job in jobs if not job.status.phase.finished]
    forget = (
        *_too_many(jobs, JobPhase.SUCCEEDED, spec.successful_jobs_history_limit),
        *_too_many(jobs, JobPhase.FAILED, spec.failed_jobs_history_limit),
    )
    succeeded = [j.status.completion_time for j in jobs if j.status.phase is JobPhase.SUCCEEDED]
    times = [time for time in (cron.status.last_successful_time, *succeeded) if time]
    status = cron.status.model_copy(
        update={
            "active": tuple(sorted(job.metadata.name for job in live)),
            "last_successful_time": max(times, default=None, key=parse_timestamp),
            "next_schedule_time": None,
        }
    )
    if spec.suspend:
        return CronPlan(status, forget=forget)
    after = following(spec.schedule, spec.time_zone, now)
    if after is not None:
        status = status.model_copy(update={"next_schedule_time": timestamp(after)})
    wake = min(LONGEST_WAIT, max(0.0, (after - now).total_seconds())) if after is not None else LONGEST_WAIT
    due = latest(spec.schedule, spec.time_zone, _since(cron, now), now)
    if due is None:
        missed = latest(spec.schedule, spec.time_zone, _made_until(cron, now), now)
        if missed is None or timestamp(missed) == status.missed_time:
            return CronPlan(status, forget=forget, wake=wake)
        status = status.model_copy(update={"missed_time": timestamp(missed)})
        message = f"the job of {short_timestamp(missed)} is left out: its deadline passed before it could be made"
        return CronPlan(status, forget=forget, wake=wake, told=((EventReason.MISS_SCHEDULE, message),))
    if live and spec.concurrency_policy is ConcurrencyPolicy.FORBID:
        if timestamp(due) == status.held_time:
            return CronPlan(status, forget=forget, wake=wake)
        status = status.model_copy(update={"held_time": timestamp(due)})
        message = f"the job of {short_timestamp(due)} waits: {live[0].metadata.name} is not over"
        return CronPlan(status, forget=forget, wake=wake, told=((EventReason.JOB_ALREADY_ACTIVE, message),))
    replaced: tuple[GPUJob, ...] = ()
    if spec.concurrency_policy is ConcurrencyPolicy.REPLACE:
        replaced = tuple(job for job in live if not job.deleting)
    active = tuple(sorted({*status.active, job_name(cron, due)}))
    status = status.model_copy(update={"active": active, "last_schedule_time": timestamp(due)})
    return CronPlan(status, due, replaced, forget, wake)


def job_name(cron: GPUCronJob, due: datetime) -> str:
    return f"{cron.metadata.name}-{int(due.timestamp()) // 60}"


def _since(cron: GPUCronJob, now: datetime) -> datetime:
    """What was due up to then was made, or is not made any more."""
    since, deadline = _made_until(cron, now), cron.spec.starting_deadline_seconds
    return since if deadline is None else max(since, now - timedelta(seconds=deadline))


def _made_until(cron: GPUCronJob, now: datetime) -> datetime:
    """What was due up to then was made, or given up for what was due later."""
    last = cron.status.last_schedule_time
    since = parse_timestamp(last or cron.metadata.creation_timestamp or timestamp(now))
    if since > now + CLOCK_WAS_WRONG:
        since = now
    return since


def _too_many(jobs: Sequence[GPUJob], phase: JobPhase, limit: int) -> tuple[GPUJob, ...]:
    """The oldest of those in that phase, beyond the limit."""
    over = [job for job in jobs if job.status.phase is phase and not job.deleting]
    over.sort(key=lambda job: (job.metadata.creation_timestamp or "", job.metadata.name))
    return tuple(over[: max(0, len(over) - limit)])
