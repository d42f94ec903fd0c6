"""What the end of an attempt means for its job: done, failed, or tried again, and when. Pure.

What each reason means for retries is said beside it, in `resources.reasons`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Literal

from cumulus.clock import parse_timestamp, timestamp
from cumulus.controllers.job import status as job_status
from cumulus.resources.job import Attempt, GPUJob, GPUJobStatus
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import condition
from cumulus.resources.reasons import AttemptReason, EventReason, JobCondition, JobReason, RetryRule, retry_of
from cumulus.resources.retries import in_a_row, requeues

KEPT_ATTEMPTS = 20
"""How many of the last attempts a status lists."""

MOST_IN_A_ROW = 10
"""A job whose workload was lost this often in a row may well be what kills its nodes, and one whose lease was over this
often before its program started will not be started: it fails."""

WARN_OF_ZEROS = 5
"""After so many leases in a row at whose end the program exited with 0, one warning asks whether the job is done."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an attempt ends. `reason` is an `AttemptReason`, or a word that only its backend knows."""

    reason: str
    message: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event to record."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Following = tuple[GPUJobStatus, tuple[EventDraft, ...]]
"""The status after an attempt, and what is told of its end where the job goes on."""


def end_attempt(job: GPUJob, attempt: Attempt, cause: Cause, now: datetime) -> Following:
    """What follows once the attempt, with its end filled in, is over; each attempt is counted in this one write.
    `end_event` speaks of the job's end."""
    status = job.status.model_copy(update={"attempts": (*job.status.attempts[:-1], attempt)})
    if attempt.start_time is not None and status.start_time is None:
        status = status.model_copy(update={"start_time": attempt.start_time})
    retry, text = retry_of(cause.reason), _text(attempt)
    if retry is RetryRule.DONE:
        return job_status.succeeded(status, attempt, text, now), ()
    status = job_status.stopped(status, cause.reason, text, now)
    if retry is RetryRule.FINAL:
        late = cause.reason == AttemptReason.DEADLINE
        reason = JobReason.DEADLINE_EXCEEDED if late else cause.reason
        return job_status.failed(status, reason, cause.message or text, now), ()
    if job.spec.stdin and attempt.start_time is not None:
        # Half of it is gone: another attempt would take the rest, or nothing, for all of it.
        message = f"{text}; its input was given to this attempt, and cannot be given again"
        return job_status.failed(status, cause.reason, message, now), ()
    if retry is RetryRule.EXPIRED:
        return _after_expiry(job, status, cause, text, now)
    if retry is RetryRule.SAVED:
        return status, (EventDraft("Normal", EventReason.REQUEUED, text),)
    if retry is RetryRule.HELD:
        return status, (EventDraft("Normal", JobReason.SUSPENDED, text),)
    if retry is RetryRule.YIELDED:
        status = status.model_copy(update={"preemptions": (status.preemptions or 0) + 1})
        return status, (EventDraft("Normal", AttemptReason.PREEMPTED, text),)
    if retry is RetryRule.OVERUSE and requeues(job):
        return _after_overuse(status, cause, text, now)
    if retry.disruption:
        return _after_disruption(status, cause, text, now)
    return _after_fault(job, status, cause.reason, text, now)


def end_event(status: GPUJobStatus) -> EventDraft:
    """What is told of a job that has succeeded or failed for good: its condition, so that no way to end is silent."""
    end = condition(status.conditions, status.phase.value)
    assert end is not None
    return EventDraft("Normal" if status.phase is JobPhase.SUCCEEDED else "Warning", end.reason, end.message)


def queue_time(job: GPUJob, status: GPUJobStatus, now: datetime) -> str | None:
    """When the next attempt joins the queue. A job that had its lease, or was suspended, goes behind all who wait, for
    they may have been promised their start; a run that was lost keeps its place."""
    last = status.attempts[-1] if status.attempts else None
    # What waits for others has no place in the queue before they have ended.
    since = job.metadata.creation_timestamp if job.spec.after is None else timestamp(now)
    if last is not None:
        since = (last.queue_time or since) if retry_of(last.reason).keeps_place else timestamp(now)
    held = condition(status.conditions, JobCondition.SUSPENDED)
    resumed = held.last_transition_time if held is not None else None
    if since and resumed and parse_timestamp(resumed) > parse_timestamp(since):
        return resumed
    return since


def _after_expiry(job: GPUJob, status: GPUJobStatus, cause: Cause, text: str, now: datetime) -> Following:
    if requeues(job):
        hint = "; checkpoint.exitZero: Succeeded would count that as done" if cause.exit_code == 0 else ""
        return status, (EventDraft("Normal", EventReason.REQUEUED, f"{text}{hint}"), *_warning_of_zeros(status))
    return job_status.failed(status, cause.reason, text, now), ()


def _warning_of_zeros(status: GPUJobStatus) -> tuple[EventDraft, ...]:
    """A job that may be done is requeued for ever where nobody notices. It is told once in a row."""
    row = takewhile(lambda a: a.exit_code == 0 and retry_of(a.reason) is RetryRule.EXPIRED, reversed(status.attempts))
    if sum(1 for _ in row) != WARN_OF_ZEROS:
        return ()
    message = (
        f"{WARN_OF_ZEROS} attempts in a row exited with 0 when their lease was over, and the job goes on each time; "
        "if it is done, delete it: with checkpoint.exitZero: Succeeded it would have ended"
    )
    return (EventDraft("Warning", EventReason.EXITED_ZERO_AGAIN, message),)


def _after_overuse(status: GPUJobStatus, cause: Cause, text: str, now: datetime) -> Following:
    """It goes on from its last checkpoint, but not for ever: a program that takes more in each lease harms others."""
    if in_a_row(status, frozenset({RetryRule.OVERUSE})) >= MOST_IN_A_ROW:
        return job_status.failed(status, cause.reason, f"{text}; so did {MOST_IN_A_ROW} in a row", now), ()
    return status, (EventDraft("Warning", cause.reason, text),)


def _after_disruption(status: GPUJobStatus, cause: Cause, text: str, now: datetime) -> Following:
    if any(in_a_row(status, frozenset({retry})) >= MOST_IN_A_ROW for retry in _LIMITED):
        return job_status.failed(status, cause.reason, f"{text}; so did {MOST_IN_A_ROW} in a row", now), ()
    # Of a late one the same each time, so that it is one event, with a count.
    message = cause.message if retry_of(cause.reason) is RetryRule.LATE else text
    return status, (EventDraft("Warning", cause.reason, message),)


_LIMITED = (RetryRule.LOSS, RetryRule.LATE)
"""Disruptions that end the job when there are too many in a row."""


def _after_fault(job: GPUJob, status: GPUJobStatus, reason: str, text: str, now: datetime) -> Following:
    failures = status.failures + 1
    status = status.model_copy(update={"failures": failures})
    if failures <= job.spec.retry.limit:
        message = f"{text}; retry {failures} of {job.spec.retry.limit}"
        return status, (EventDraft("Warning", EventReason.ATTEMPT_FAILED, message),)
    if limit := job.spec.retry.limit:
        text = f"{text}; that was {'the only retry' if limit == 1 else f'the last of {limit} retries'}"
    return job_status.failed(status, reason, text, now), ()


def _text(attempt: Attempt) -> str:
    """One line for people: `attempt 2: Error, exit code 3, replica 1`."""
    parts = [f"attempt {attempt.number}: {attempt.reason}"]
    if attempt.exit_code:
        parts.append(f"exit code {attempt.exit_code}")
    if attempt.message:
        parts.append(attempt.message)
    return ", ".join(parts)
