"""When a job's next attempt may begin, from how those before it ended. Pure."""

from __future__ import annotations

from collections.abc import Set
from datetime import datetime
from itertools import takewhile

from cumulus.clock import parse_timestamp
from cumulus.lib.backoff import Backoff
from cumulus.resources.job import GPUJob, GPUJobStatus
from cumulus.resources.quantity import parse_duration
from cumulus.resources.reasons import RetryRule, retry_of

LONGEST_BACKOFF = 3600.0
"""Seconds: the longest wait before a retry; spec.retry.backoff doubles up to it."""

DISRUPTION_BACKOFF = Backoff(first=1.0, longest=300.0)
"""After an end that was not the job's fault, by how many came in a row."""

_DISRUPTIONS = frozenset(retry for retry in RetryRule if retry.disruption)


def next_due(job: GPUJob, now: datetime) -> float:
    """Seconds until the next attempt may begin, 0 or less when it may now."""
    status = job.status
    last = status.attempts[-1] if status.attempts else None
    if last is None or last.end_time is None:
        return 0.0
    retry = retry_of(last.reason)
    if retry.disruption:
        row = in_a_row(status, _DISRUPTIONS)
        delay = DISRUPTION_BACKOFF.seconds(row - 1)
    elif retry is RetryRule.OVERUSE and requeues(job):
        delay = DISRUPTION_BACKOFF.seconds(in_a_row(status, frozenset({RetryRule.OVERUSE})) - 1)
    elif retry in (RetryRule.SAVED, RetryRule.YIELDED):
        delay = DISRUPTION_BACKOFF.first
    elif retry in (RetryRule.HELD, RetryRule.EXPIRED):
        delay = 0.0
    else:
        delay = Backoff(parse_duration(job.spec.retry.backoff), LONGEST_BACKOFF).seconds(status.failures - 1)
    return delay - (now - parse_timestamp(last.end_time)).total_seconds()


def requeues(job: GPUJob) -> bool:
    """Whether the job goes on from its checkpoint when a lease of its has ended."""
    return job.spec.checkpoint is not None and job.spec.checkpoint.requeues


def in_a_row(status: GPUJobStatus, kinds: Set[RetryRule]) -> int:
    """How many of the last attempts, without a gap, ended in one of these ways."""
    row = takewhile(lambda attempt: retry_of(attempt.reason) in kinds, reversed(status.attempts))
    return sum(1 for _ in row)
