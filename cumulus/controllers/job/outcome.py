"""What the end of an attempt means for its job: done, failed, or tried again, and when. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from cumulus.backends.exit_codes import SAVED
from cumulus.clock import parse_timestamp, timestamp
from cumulus.resources.conditions import condition_set
from cumulus.resources.job import Attempt, GPUJob, GPUJobStatus, JobPhase
from cumulus.resources.meta import condition
from cumulus.resources.quantity import parse_duration

KEPT_ATTEMPTS = 20
"""How many of the last attempts a status lists."""

LONGEST_BACKOFF = 3600.0
"""Seconds: the longest wait before a retry; spec.retry.backoff doubles up to it."""

DISRUPTION_BACKOFF = 1.0
LONGEST_DISRUPTION_BACKOFF = 300.0
"""Seconds: the first and longest wait after an end that was not the job's fault, doubling with each in a row."""

MOST_IN_A_ROW = 10
"""A job whose workload was lost this often in a row may well be what kills its nodes, and one whose lease was over this
often before its program started will not be started: it fails."""

FAULTS = frozenset({"Error", "OOMKilled", "StartError"})
"""Ends that count against spec.retry.limit; so does any reason not known here."""

_LOSSES = frozenset({"Lost", "NodeLost"})
EARLY = "ExpiredBeforeStart"
_LIMITED = (_LOSSES, frozenset({EARLY}))
"""Disruptions that end the job when there are too many in a row."""
_DISRUPTIONS = frozenset({*_LOSSES, EARLY, "GrantFailed", "LeaseReleased", "NodeUnreachable", "Stopped"})
_FINAL = {"StartRefused": "StartRefused", "Deadline": "DeadlineExceeded"}


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an attempt ends; `reason` is one CamelCase word."""

    reason: str
    message: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """An event to record."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def end_attempt(job: GPUJob, attempt: Attempt, cause: Cause, now: datetime) -> tuple[GPUJobStatus, tuple[Said, ...]]:
    """The status once the attempt, with its end filled in, is over; each attempt is counted in this one write. And what
    is said of it where the job goes on; `end_event` speaks of its end."""
    status = job.status.model_copy(update={"attempts": (*job.status.attempts[:-1], attempt)})
    if attempt.start_time is not None and status.start_time is None:
        status = status.model_copy(update={"start_time": attempt.start_time})
    text = _text(attempt)
    if cause.reason == "Completed":
        return _succeeded(status, attempt, now), ()
    status = _stopped(status, cause.reason, text, now)
    if cause.reason in _FINAL:
        return failed(status, _FINAL[cause.reason], cause.message or text, now), ()
    if cause.reason == "LeaseExpired":
        if job.spec.checkpoint is not None and job.spec.checkpoint.on_expiry == "Requeue":
            hint = "; checkpoint.exitZero: Succeeded would count that as done" if cause.exit_code == 0 else ""
            return status, (Said("Normal", "Requeued", f"{text}{hint}"),)
        return failed(status, "LeaseExpired", text, now), ()
    if cause.reason == "Saved":
        return status, (Said("Normal", "Requeued", text),)
    if cause.reason == "Suspended":
        return status, (Said("Normal", "Suspended", text),)
    if cause.reason in _DISRUPTIONS:
        if any(_in_a_row(status, reasons) >= MOST_IN_A_ROW for reasons in _LIMITED):
            return failed(status, cause.reason, f"{text}; so did {MOST_IN_A_ROW} in a row", now), ()
        # The same each time, so that it is one event, with a count.
        return status, (Said("Warning", cause.reason, cause.message if cause.reason == EARLY else text),)
    return _fault(job, status, cause.reason, text, now)


def judged(job: GPUJob, attempt: Attempt, cause: Cause, checkpoint: str | None) -> Cause:
    """What the cause of an attempt's end comes to, by what it did before."""
    if cause.reason == "LeaseExpired" and attempt.start_time is None:
        return Cause(EARLY, f"its lease of {job.spec.gpu.duration} was over before its program could start")
    return _saved(job, cause, checkpoint)


def _saved(job: GPUJob, cause: Cause, checkpoint: str | None) -> Cause:
    """`cause`, or what exit code 75 of a job with a checkpoint makes of it: Saved, or NotSaved for the second in a row
    without a newer `checkpoint` (its time, "" where there is none, None where nobody could see it)."""
    spec = job.spec.checkpoint
    if (
        cause.exit_code != SAVED
        or spec is None
        or spec.on_expiry != "Requeue"
        or cause.reason in ("Suspended", "Deadline")
    ):
        return cause
    before = job.status.attempts[-2] if len(job.status.attempts) > 1 else None
    if before is None or before.exit_code != SAVED:
        return replace(cause, reason="Saved")
    if checkpoint is None and cause.reason != "Error":
        # It was told to end, as it is once in each lease: nothing spins, and what nobody can see is taken on trust.
        return replace(cause, reason="Saved")
    if checkpoint and checkpoint > (before.checkpoint_time or ""):
        return replace(cause, reason="Saved")
    return replace(cause, reason="NotSaved", message=f"no newer checkpoint than that of attempt {before.number}")


def failed(status: GPUJobStatus, reason: str, message: str, now: datetime) -> GPUJobStatus:
    """The status of a job that is given up."""
    conditions = condition_set(status.conditions, timestamp(now), "Failed", True, reason, message)
    return status.model_copy(
        update={"phase": JobPhase.FAILED, "conditions": conditions, "completion_time": timestamp(now)}
    )


def end_event(status: GPUJobStatus) -> Said:
    """What is said of a job that has succeeded or failed for good: its condition, so that no way to end is silent."""
    end = condition(status.conditions, status.phase.value)
    assert end is not None
    return Said("Normal" if status.phase is JobPhase.SUCCEEDED else "Warning", end.reason, end.message)


def next_due(job: GPUJob, now: datetime) -> float:
    """Seconds until the next attempt may begin, 0 or less when it may now."""
    status = job.status
    last = status.attempts[-1] if status.attempts else None
    if last is None or last.end_time is None:
        return 0.0
    if last.reason in _DISRUPTIONS:
        row = _in_a_row(status, _DISRUPTIONS)
        delay = min(LONGEST_DISRUPTION_BACKOFF, DISRUPTION_BACKOFF * 2.0 ** min(row - 1, 20))
    elif last.reason == "Saved":
        delay = DISRUPTION_BACKOFF
    elif last.reason in ("Suspended", "LeaseExpired"):
        delay = 0.0
    else:
        delay = min(
            LONGEST_BACKOFF, parse_duration(job.spec.retry.backoff) * 2.0 ** min(max(0, status.failures - 1), 20)
        )
    return delay - (now - parse_timestamp(last.end_time)).total_seconds()


def queue_time(job: GPUJob, status: GPUJobStatus, now: datetime) -> str | None:
    """When the next attempt joins the queue. A job that had its lease, or was suspended, goes behind all who wait, for
    they may have been promised their start; a run that was lost keeps its place."""
    last = status.attempts[-1] if status.attempts else None
    since = job.metadata.creation_timestamp
    if last is not None:
        since = (last.queue_time or since) if last.reason in _DISRUPTIONS else timestamp(now)
    held = condition(status.conditions, "Suspended")
    resumed = held.last_transition_time if held is not None else None
    if since and resumed and parse_timestamp(resumed) > parse_timestamp(since):
        return resumed
    return since


def _fault(
    job: GPUJob, status: GPUJobStatus, reason: str, text: str, now: datetime
) -> tuple[GPUJobStatus, tuple[Said, ...]]:
    failures = status.failures + 1
    status = status.model_copy(update={"failures": failures})
    if failures <= job.spec.retry.limit:
        message = f"{text}; retry {failures} of {job.spec.retry.limit}"
        return status, (Said("Warning", "AttemptFailed", message),)
    if limit := job.spec.retry.limit:
        text = f"{text}; that was {'the only retry' if limit == 1 else f'the last of {limit} retries'}"
    return failed(status, reason, text, now), ()


def _succeeded(status: GPUJobStatus, attempt: Attempt, now: datetime) -> GPUJobStatus:
    moment = timestamp(now)
    conditions = condition_set(status.conditions, moment, "Running", False, "Completed")
    conditions = condition_set(conditions, moment, "Succeeded", True, "Completed", _text(attempt))
    return status.model_copy(
        update={"phase": JobPhase.SUCCEEDED, "conditions": conditions, "completion_time": attempt.end_time}
    )


def _stopped(status: GPUJobStatus, reason: str, text: str, now: datetime) -> GPUJobStatus:
    conditions = status.conditions
    for type in ("Scheduled", "PartitionsReady", "Running"):
        conditions = condition_set(conditions, timestamp(now), type, False, reason, text if type == "Running" else "")
    return status.model_copy(update={"phase": JobPhase.PENDING, "conditions": conditions})


def _in_a_row(status: GPUJobStatus, reasons: frozenset[str]) -> int:
    """How many of the last attempts, without a gap, ended for one of `reasons`."""
    count = 0
    for attempt in reversed(status.attempts):
        if attempt.reason not in reasons:
            break
        count += 1
    return count


def _text(attempt: Attempt) -> str:
    """One line for people: `attempt 2: Error, exit code 3, replica 1`."""
    parts = [f"attempt {attempt.number}: {attempt.reason}"]
    if attempt.exit_code:
        parts.append(f"exit code {attempt.exit_code}")
    if attempt.message:
        parts.append(attempt.message)
    return ", ".join(parts)
