"""What came of a job's call: brings its result from the node to the blobs of its submitter, and says the rest in words.

The job's last status is written with it in one write: whoever sees that the job is final sees its result. A crash
before that write does all of it again, which changes nothing.
"""

from __future__ import annotations

import signal
from datetime import datetime

from cumulus.backends.base import Backend, CallResult
from cumulus.blob.base import BlobStore, owner_of
from cumulus.calls import outcome as outcomes
from cumulus.calls.outcome import Outcome
from cumulus.clock import parse_timestamp
from cumulus.errors import BackendError, BlobBusy, BlobError, BlobMismatch, BlobTooLarge, NodeUnreachable
from cumulus.machinery.reconcile import Retry
from cumulus.resources.job import Attempt, GPUJob, GPUJobStatus
from cumulus.resources.job_call import CallStatus
from cumulus.resources.meta import condition
from cumulus.resources.quantity import parse_bytes
from cumulus.resources.reasons import AttemptReason, JobCondition, JobReason
from cumulus.resources.submitter import Submitter

PATIENCE = 600.0
"""Seconds after its end for which a result is asked of a node that does not answer."""

ROOM_PATIENCE = 60.0
"""Seconds after its end for which a result waits for room: until then its lease is held."""

_WITHOUT_ANSWER = {
    AttemptReason.LEASE_EXPIRED: outcomes.LEASE_EXPIRED,
    AttemptReason.EXPIRED_BEFORE_START: outcomes.LEASE_EXPIRED,
    AttemptReason.NODE_LOST: outcomes.NODE_LOST,
    AttemptReason.LOST: outcomes.NODE_LOST,
    AttemptReason.NODE_UNREACHABLE: outcomes.NODE_LOST,
    AttemptReason.OOM_KILLED: outcomes.OUT_OF_MEMORY,
    AttemptReason.OVERUSED: outcomes.OUT_OF_MEMORY,
    AttemptReason.DEADLINE: outcomes.DEADLINE,
    AttemptReason.START_ERROR: outcomes.NOT_STARTED,
    AttemptReason.START_REFUSED: outcomes.NOT_STARTED,
    AttemptReason.GRANT_FAILED: outcomes.NOT_STARTED,
}
"""What the end of an attempt comes to that left no answer; else it crashed."""


def call_status(
    job: GPUJob, status: GPUJobStatus, backend: Backend | None, blobs: BlobStore | None, now: datetime
) -> CallStatus:
    """The call's part of the last `status` of its job. Raises Retry where its result is yet to come."""
    attempt = status.attempts[-1] if status.attempts else None
    if attempt is None or attempt.end_time is None:
        # It was over while it waited.
        end = condition(status.conditions, JobCondition.FAILED)
        if end is not None and end.reason == JobReason.DEPENDENCY_NEVER_SATISFIED:
            return _of(Outcome(outcomes.NOT_STARTED, text=end.message), 0)
        return _of(Outcome(outcomes.DEADLINE, text="activeDeadline was over before it started"), 0)
    waited = (now - parse_timestamp(attempt.end_time)).total_seconds()
    try:
        found = _left(backend, job.uid, attempt.number)
        outcome = _without_answer(job, attempt) if found is None else _kept(job, found, blobs, waited)
    except (BackendError, NodeUnreachable) as error:
        if attempt.exit_code is not None and waited < PATIENCE:
            raise Retry(f"the result of {job.key} cannot be fetched: {error}") from error
        outcome = _without_answer(job, attempt)
        if attempt.exit_code is not None:
            outcome = Outcome(outcomes.NODE_LOST, text=f"its result was lost: {error}")
    return _of(outcome, attempt.number)


def _left(backend: Backend | None, job_uid: str, attempt: int) -> CallResult | None:
    try:
        return None if backend is None else backend.result(job_uid, attempt, 0)
    except ValueError as error:
        # The job wrote it, and may write what it likes.
        return CallResult(Outcome(outcomes.CRASHED, text=f"what it left as its answer is none: {error}"), iter(()))


def _of(outcome: Outcome, attempt: int) -> CallStatus:
    return CallStatus.model_validate({**outcome.fields(), "attempt": attempt})


def _kept(job: GPUJob, found: CallResult, blobs: BlobStore | None, waited: float) -> Outcome:
    """The outcome, once its result is a blob of the submitter."""
    outcome = found.outcome
    if not outcome.result:
        return outcome
    if blobs is None:
        raise Retry("this daemon keeps no blobs")
    owner = owner_of(Submitter.of(job.metadata.annotations))
    try:
        kept = blobs.write(owner, outcome.result, outcome.result_size, found.content)
    except BlobMismatch:
        return Outcome(outcomes.CRASHED, text="its result is not what it said it is")
    except BlobError as error:
        if isinstance(error, BlobTooLarge) or (waited >= ROOM_PATIENCE and not isinstance(error, BlobBusy)):
            return Outcome(outcomes.NOT_KEPT, text=f"its result could not be kept: {error}")
        raise Retry(f"the result of {job.key} cannot be kept: {error}") from error
    if not kept.complete:
        raise BackendError(f"it broke off after {kept.received} of {kept.size} bytes")
    return outcome


def _signal(exit_code: int) -> str:
    """What a shell's exit code above 128 tells: ` (SIGSEGV)`."""
    try:
        return f" ({signal.Signals(exit_code - 128).name})"
    except ValueError:
        return ""


def _without_answer(job: GPUJob, attempt: Attempt) -> Outcome:
    """What the end of an attempt comes to that left no answer."""
    try:
        word = _WITHOUT_ANSWER.get(AttemptReason(attempt.reason), outcomes.CRASHED)  # type: ignore[call-arg]
    except ValueError:
        word = outcomes.CRASHED
    text = attempt.message or f"attempt {attempt.number} ended: {attempt.reason}"
    if word == outcomes.CRASHED and attempt.exit_code is not None:
        text = f"its process ended without an answer, with exit code {attempt.exit_code}{_signal(attempt.exit_code)}"
    limit = job.spec.resources.memory
    leased = parse_bytes(limit) if attempt.reason == AttemptReason.OOM_KILLED and limit else 0
    return Outcome(word, text=text, leased=leased)
