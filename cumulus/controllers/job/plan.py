"""The next step of one job, from its partitions and its workloads: pure, no I/O.

A job goes through attempts. An attempt is recorded in status in the transaction that creates its partitions, so that
its number is never used again; it ends in one status write, once none of its workloads is left alive; the next
one begins only when the last one's leases are over. Nothing is written that was not observed.

The steps follow in the order of a job's life; the last three are for a job whose next step cannot be written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from cumulus.backends.base import Observed
from cumulus.calls.outcome import CRASHED
from cumulus.clock import parse_timestamp, timestamp
from cumulus.controllers.job import ending, handover, outcome, parking
from cumulus.controllers.job import status as job_status
from cumulus.controllers.job.outcome import Cause, EventDraft
from cumulus.controllers.job.view import (
    OVERRUN_MARGIN,
    JobView,
    Replica,
    Unknown,
    being_ended,
    checkpoint_time,
    runs,
    saved_checkpoint,
    shares_of,
)
from cumulus.controllers.partition_facts import latest_end, over_by_time
from cumulus.lib.truncate import LONGEST_WORD, truncate
from cumulus.resources import job_partitions, retries
from cumulus.resources.job import Attempt, GPUJob, GPUJobStatus, JobPromise
from cumulus.resources.job_after import broken_words, progress, waiting_words
from cumulus.resources.job_call import CallStatus
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.meta import REPLICA_LABEL, condition
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.quantity import bytes_in_words, parse_duration
from cumulus.resources.reasons import AttemptReason, EventReason, JobCondition, JobReason, PartitionCondition

UNKNOWN_POLL = 5.0
"""Seconds between looks at workloads whose node does not answer: nobody tells when it answers again."""

STOP_POLL = 1.0
"""Seconds between looks at workloads that are being ended; the backend's reports usually come first."""

RELEASE_POLL = 10.0
"""Seconds between looks at leases that are being given back; their events usually come first."""

TAKEN_POLL = 10.0
"""Seconds between looks at whether a name that a job needs is free."""

KEPT_PARTITIONS = 16
"""Names of partitions that are kept of an attempt that is over: those of a large gang would fill the status."""


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What to do, in this order: `start` and `stop` (then look again), or write `status` with what is created and
    discarded in one transaction, then `remove` the workloads of the attempt that ended. What is created is for
    `status.next`, or where there is none for the attempt that begins."""

    status: GPUJobStatus
    create: tuple[GPUPartition, ...] = ()
    discard: tuple[GPUPartition, ...] = ()
    update: tuple[GPUPartition, ...] = ()
    """Partitions whose spec follows the job: the priority of those that wait, what is to be parked."""
    start: tuple[int, ...] = ()
    stop: Mapping[int, float] = field(default_factory=dict)
    """Replica -> seconds of grace."""
    stop_reason: str = ""
    """Why, for programs that are asked for a checkpoint first; "" where one is of no use."""
    remove: bool = False
    wake: float | None = None
    events: tuple[EventDraft, ...] = ()
    """That of the job's end is written together with its status."""


def plan(view: JobView) -> JobPlan:
    """The next step of a job that is not being deleted."""
    job = view.job
    seen = job.status.model_copy(update={"observed_generation": job.metadata.generation or 0})
    if seen.phase.finished:
        return JobPlan(seen)
    seen = seen.model_copy(update={"checkpoint": saved_checkpoint(view), "promise": None})
    view = replace(view, job=job.replace(status=seen))
    attempt = seen.live_attempt
    made = _waiting(view) if attempt is None else _during(view, attempt)
    saved = (*_saved_event(job.status, made.status), *_copy_event(job.status, made.status))
    ran = _ran_event(job.status, made.status)
    if made.status.phase.finished:
        return replace(made, events=(*ran, *saved, outcome.end_event(made.status)))
    return replace(made, events=(*ran, *saved, *made.events))


def _ran_event(before: GPUJobStatus, after: GPUJobStatus) -> tuple[EventDraft, ...]:
    """Of an attempt that was over before it was ever seen to run."""
    attempt = before.live_attempt
    if attempt is None or attempt.start_time is not None:
        return ()
    ended = next((a for a in after.attempts if a.number == attempt.number and a.end_time is not None), None)
    # A container that could not be started has a time too: when it was made.
    if ended is None or ended.start_time is None or ended.reason == AttemptReason.START_ERROR:
        return ()
    where = f" on {ended.node}" if ended.node else ""
    return (EventDraft("Normal", JobReason.STARTED, f"attempt {ended.number} ran{where}"),)


def _saved_event(before: GPUJobStatus, after: GPUJobStatus) -> tuple[EventDraft, ...]:
    """Of an attempt's checkpoints the first is told, and the one with which it ends."""
    found, attempt = after.checkpoint, before.live_attempt
    known = before.checkpoint
    if found is None or attempt is None or (known is not None and (found.step, found.time) == (known.step, known.time)):
        return ()
    since = attempt.start_time or found.time
    first = before.checkpoint is None or before.checkpoint.time < since
    lives = after.live_attempt is not None and after.live_attempt.number == attempt.number
    if not first and lives and after.phase is JobPhase.RUNNING:
        return ()
    message = f"step {found.step}, {bytes_in_words(found.size)} in {found.seconds:.1f} s, at {found.node}:{found.path}"
    return (EventDraft("Normal", EventReason.CHECKPOINT_SAVED, truncate(message)),)


def _copy_event(before: GPUJobStatus, after: GPUJobStatus) -> tuple[EventDraft, ...]:
    """Of what keeps checkpoints on their node, once until it passes."""
    found, known = after.checkpoint, before.checkpoint
    if found is None or not found.upload_error or (known is not None and known.upload_error):
        return ()
    message = f"step {found.step} is not at {found.uri} yet: {found.upload_error}; it is tried again"
    return (EventDraft("Warning", EventReason.CHECKPOINT_NOT_COPIED, truncate(message)),)


def _waiting(view: JobView) -> JobPlan:
    """No attempt lives: the job is held, waits for its next one, or begins it."""
    job, status = view.job, view.job.status
    if job.spec.after is not None and not status.attempt_count:
        status = status.model_copy(update={"after": progress(job.spec.after, status.after, view.phases)})
    if job.spec.suspend or job.spec.park:
        field = "spec.suspend" if job.spec.suspend else "spec.park"
        return _without_next(view, job_status.suspended(status, field, view.now))
    status = job_status.resumed(status, view.now)
    if not status.attempt_count and (broken := broken_words(status.after)):
        return JobPlan(job_status.failed(status, JobReason.DEPENDENCY_NEVER_SATISFIED, broken, view.now))
    if not status.attempt_count and (others := waiting_words(status.after)):
        return JobPlan(job_status.waiting(status, JobReason.DEPENDENCY, f"it waits {others}", view.now))
    left = view.deadline_left()
    if left is not None and left <= 0:
        late = JobReason.DEADLINE_EXCEEDED
        return _without_next(view, job_status.failed(status, late, "activeDeadline was over", view.now))
    ahead = status.next is not None and handover.usable(view)
    wait = 0.0 if ahead else retries.next_due(job, view.now)
    if wait > 0:
        message = f"attempt {status.attempt_count + 1} waits after {status.attempts[-1].reason}"
        status = job_status.waiting(status, JobReason.BACKING_OFF, message, view.now)
        return JobPlan(status, wake=wait if left is None else min(wait, left))
    if any(view.may_hold_a_workload(partition) for partition in view.partitions):
        message = "the last attempt's leases are being given back"
        return JobPlan(job_status.waiting(status, JobReason.RELEASING, message, view.now), wake=RELEASE_POLL)
    return _begin_next(view, status) if ahead else _begin(view, handover.withdrawn(status))


def _begin(view: JobView, status: GPUJobStatus) -> JobPlan:
    job, number = view.job, status.attempt_count + 1
    names = job_partitions.partition_names(job, number)
    attempt = Attempt(number=number, partitions=names, queue_time=outcome.queue_time(job, status, view.now))
    status = job_status.waiting(status, JobReason.QUEUED, "", view.now)
    status = status.model_copy(
        update={"attempts": (*status.attempts, attempt)[-outcome.KEPT_ATTEMPTS :], "attempt_count": number}
    )
    discard = tuple(partition for partition in view.partitions if not partition.deleting)
    made = JobPlan(status, create=job_partitions.partitions(job.replace(status=status), number), discard=discard)
    # Those that were made for an attempt ahead, and were not needed, may not be gone yet.
    return renamed(job, made) if {p.metadata.name for p in view.partitions} & {*names} else made


def _begin_next(view: JobView, status: GPUJobStatus) -> JobPlan:
    """The attempt that was queued ahead begins; what is left of the last one goes."""
    kept = status.next.partitions if status.next is not None else ()
    discard = tuple(p for p in view.partitions if not p.deleting and p.metadata.name not in kept)
    return JobPlan(handover.begun(status, outcome.KEPT_ATTEMPTS), discard=discard, wake=0.0)


def _without_next(view: JobView, status: GPUJobStatus, **more: Any) -> JobPlan:
    """A plan in which no attempt is queued ahead any more."""
    if status.next is None:
        return JobPlan(status, **more)
    discard = tuple(partition for partition in view.held(status.next) if not partition.deleting)
    return JobPlan(handover.withdrawn(status), discard=discard, **more)


def _during(view: JobView, attempt: Attempt) -> JobPlan:
    """An attempt lives: it goes on, is stopped, or is over."""
    held = view.held(attempt)
    attempt = _noted(attempt, held, view.replicas)
    cause = ending.cause(view, attempt, held)
    if cause is None:
        return _going_on(view, attempt, held)
    alive = view.alive(held)
    if alive:
        return _stopping(view, attempt, alive, held, cause)
    return _over(view, attempt, cause)


def _noted(attempt: Attempt, held: Sequence[GPUPartition], replicas: Sequence[Replica]) -> Attempt:
    """The attempt with what is known by now of where and since when it runs."""
    update: dict[str, object] = {}
    by_replica = {p.metadata.labels.get(REPLICA_LABEL): p.status.node for p in held if p.status.node}
    if by_replica and len(by_replica) == len(replicas):
        nodes = tuple(by_replica[str(r)] for r in range(len(replicas)))
        update = {"node": nodes[0], "nodes": nodes if len(nodes) > 1 else ()}
    started = [r.started_at for r in replicas if isinstance(r, Observed) and r.started_at]
    if attempt.start_time is None and started:
        update["start_time"] = min(started)
    return attempt.model_copy(update=update)


def _going_on(view: JobView, attempt: Attempt, held: Sequence[GPUPartition]) -> JobPlan:
    """Nothing ends the attempt: it waits for its partitions, starts, or runs."""
    job, wake = view.job, _wake(view, held)
    status = job.status.model_copy(update={"attempts": (*job.status.attempts[:-1], attempt)})
    unbound = next((p for p in held if p.status.phase is PartitionPhase.PENDING), None)
    if unbound is not None:
        bound = condition(unbound.status.conditions, PartitionCondition.BOUND)
        reason, message = (bound.reason, bound.message) if bound is not None else (JobReason.QUEUED, "")
        waiting = job_status.waiting(status, reason, message, view.now)
        if unbound.status.promise is not None:
            waiting = waiting.model_copy(update={"promise": JobPromise(start_by=unbound.status.promise.start_by)})
        return JobPlan(waiting, update=_reprioritized(job, held), wake=wake)
    if len(held) == 1 and held[0].status.phase.parked:
        return _parked(view, attempt, status, held[0], wake)
    active = all(p.status.phase is PartitionPhase.ACTIVE for p in held)
    running = active and all(runs(r, job.status.phase) for r in view.replicas)
    status = job_status.scheduled(status, view.now, active=active, running=running)
    status = job_status.overused(status, held, view.now)
    status = _idle(view, attempt, job_status.not_parked(status, held, view.now), held)
    if running and any(being_ended(p) for p in held):
        status = status.model_copy(update={"phase": _interrupted(job)})
    if attempt.start_time is not None and status.start_time is None:
        status = status.model_copy(update={"start_time": attempt.start_time})
    start = tuple(r for r, replica in enumerate(view.replicas) if replica is None) if active else ()
    began = status.phase is JobPhase.RUNNING and job.status.phase not in (JobPhase.RUNNING, JobPhase.PARKED)
    started = EventDraft("Normal", JobReason.STARTED, f"attempt {attempt.number} runs on {attempt.node}")
    create: tuple[GPUPartition, ...] = ()
    to_park, later = _parking(view, attempt, held) if running else ((), None)
    wake = min((each for each in (wake, later) if each is not None), default=None)
    parks = len(held) == 1 and parking.instead_of_handover(view, held[0])
    ahead = handover.due(view, attempt, held) if running and not parks else None
    if ahead is not None and ahead <= 0:
        status, create = handover.queued(view, status)
    elif ahead is not None:
        wake = ahead if wake is None else min(wake, ahead)
    if running and handover.early(view, held):
        return _without_next(view, status, events=(started,) if began else (), wake=0.0)
    update = (*to_park, *_reprioritized(job, view.held(job.status.next)))
    events = ((started,) if began else ()) + _idle_event(job.status, status)
    return JobPlan(status, create=create, update=update, start=start, events=events, wake=wake)


def _parked(
    view: JobView, attempt: Attempt, status: GPUJobStatus, partition: GPUPartition, wake: float | None
) -> JobPlan:
    """Its program waits in main memory: it stays there, or waits for its share to come back."""
    status = job_status.parked(status, partition, view.now)
    update, later = _parking(view, attempt, [partition])
    wake = min((each for each in (wake, later) if each is not None), default=None)
    return _without_next(view, status, update=update or _reprioritized(view.job, [partition]), wake=wake)


def _parking(
    view: JobView, attempt: Attempt, held: Sequence[GPUPartition]
) -> tuple[tuple[GPUPartition, ...], float | None]:
    """The job's one partition, where what is wanted of its program has changed; and when to look at that again."""
    if len(held) != 1:
        return (), parking.IDLE_POLL if view.idle is not None else None
    (partition,) = held
    wished = parking.wished(view, attempt, partition)
    update = () if wished is None else (partition.replace(spec=partition.spec.model_copy(update={"park": wished})),)
    return update, parking.wake(view, partition)


def _idle_event(before: GPUJobStatus, after: GPUJobStatus) -> tuple[EventDraft, ...]:
    said, known = (condition(each.conditions, JobCondition.IDLE) for each in (after, before))
    if said is None or said.status != "True" or (known is not None and known.status == "True"):
        return ()
    return (EventDraft("Warning", said.reason, said.message),)


def _idle(view: JobView, attempt: Attempt, status: GPUJobStatus, held: Sequence[GPUPartition]) -> GPUJobStatus:
    """With the condition Idle, where its GPU did nothing for long enough to be told."""
    for action in ("Report", "Park"):
        seconds = parking.idle_too_long(view, attempt, held, action)
        if seconds is not None and view.idle is not None:
            return job_status.idle(
                status, JobReason.GPU_IDLE, f"its GPU has done nothing for {view.idle.after}", view.now
            )
    return job_status.idle(status, None, "", view.now)


def _reprioritized(job: GPUJob, held: Sequence[GPUPartition]) -> tuple[GPUPartition, ...]:
    return tuple(
        partition.replace(spec=partition.spec.model_copy(update={"priority": job.spec.priority}))
        for partition in held
        if partition.waits and partition.spec.priority != job.spec.priority
    )


def _wake(view: JobView, held: Sequence[GPUPartition]) -> float | None:
    """When time alone, without any event, would change the plan."""
    waits = [left for left in (view.deadline_left(),) if left is not None]
    if any(isinstance(replica, Unknown) for replica in view.replicas):
        waits.append(UNKNOWN_POLL)
    for partition in held:
        if (end := latest_end(partition)) is not None:
            over = end - view.now
            waits.append(over.total_seconds() + parse_duration(partition.spec.grace_period) + OVERRUN_MARGIN + 1)
        elif (left := view.stuck_left(partition)) is not None:
            waits.append(left)
        if partition.status.reclaim is not None:
            waits.append((parse_timestamp(partition.status.reclaim.at) - view.now).total_seconds())
    return max(0.1, min(waits)) if waits else None


def _stopping(
    view: JobView, attempt: Attempt, alive: Sequence[int], held: Sequence[GPUPartition], cause: Cause
) -> JobPlan:
    """Some workloads are alive that must not go on: ask for their end, and wait for it."""
    job = view.job
    update: dict[str, object] = {"attempts": (*job.status.attempts[:-1], attempt)}
    if job.status.phase is JobPhase.RUNNING:
        update["phase"] = _interrupted(job)
    graces = {r: _stop_grace(view, shares_of(held, r)) for r in alive if not isinstance(view.replicas[r], Unknown)}
    stop = {r: grace for r, grace in graces.items() if grace is not None}
    reason = cause.reason if cause.reason in _ASKED_FIRST and len(alive) == len(view.replicas) else ""
    status = job.status.model_copy(update=update)
    if cause.reason == AttemptReason.IDLE:
        # What it does while it saves does not let it go on.
        status = job_status.idle(status, AttemptReason.IDLE, cause.message, view.now)
    plan = JobPlan(status) if handover.goes_on(cause.reason) else _without_next(view, status)
    return replace(plan, stop=stop, stop_reason=reason, wake=STOP_POLL)


_ASKED_FIRST = (
    AttemptReason.SUSPENDED, AttemptReason.LEASE_RELEASED, AttemptReason.DEADLINE, AttemptReason.PREEMPTED,
    AttemptReason.IDLE,
)  # fmt: skip
"""Ends from outside, for which all replicas are asked for a checkpoint. At the end of a lease the programs know the
time themselves, and a gang that has lost a replica cannot save together."""


def _stop_grace(view: JobView, mine: Sequence[GPUPartition]) -> float | None:
    """Seconds of grace for a workload that must end; None where its node is ending it and it has time left."""
    if any(over_by_time(partition, view.now, OVERRUN_MARGIN) for partition in mine):
        return 0.0
    if any(being_ended(partition) for partition in mine):
        return None
    return parse_duration(job_partitions.grace(view.job))


def _interrupted(job: GPUJob) -> JobPhase:
    """The phase between the stop signal and the end."""
    return JobPhase.CHECKPOINTING if job.spec.checkpoint is not None else job.status.phase


def _over(view: JobView, attempt: Attempt, cause: Cause) -> JobPlan:
    """None of its workloads is alive: the attempt ends, and its job with it or not."""
    job = view.job
    if cause.reason == AttemptReason.COMPLETED:
        job = job.replace(status=job_status.ran(job.status, view.now))
    checkpoint = checkpoint_time(view.replicas)
    cause = ending.judged(job, attempt, cause, checkpoint)
    status, events = outcome.end_attempt(job, _ended(attempt, cause, view, checkpoint), cause, view.now)
    over = status.phase.finished
    if status.next is None or over or not handover.goes_on(cause.reason) or not handover.usable(view):
        plan = _without_next(view, status)
    elif handover.certain(view.replicas):
        plan = _begin_next(view, status)
    else:
        # Its leases have to be over first.
        plan = JobPlan(status)
    return replace(plan, remove=True, events=events, wake=None if over else 0.0)


def _ended(attempt: Attempt, cause: Cause, view: JobView, checkpoint: str | None) -> Attempt:
    finished = [r.finished_at for r in view.replicas if isinstance(r, Observed) and r.finished_at]
    return attempt.model_copy(
        update={
            "end_time": max(finished) if finished else timestamp(view.now),
            "exit_code": cause.exit_code,
            "reason": truncate(str(cause.reason), LONGEST_WORD),
            "message": truncate(cause.message),
            "checkpoint_time": checkpoint or None,
            "partitions": attempt.partitions[:KEPT_PARTITIONS],
        }
    )


def renamed(job: GPUJob, plan: JobPlan) -> JobPlan:
    """A plan that begins an attempt, with other names for its partitions: theirs are taken by somebody else's."""
    mark = job.uid.replace("-", "")[:8]
    create = tuple(
        partition.replace(metadata=partition.metadata.model_copy(update={"name": f"{partition.metadata.name}-{mark}"}))
        for partition in plan.create
    )
    attempts = plan.status.attempts
    last = attempts[-1].model_copy(update={"partitions": tuple(partition.metadata.name for partition in create)})
    return replace(plan, create=create, status=plan.status.model_copy(update={"attempts": (*attempts[:-1], last)}))


def name_taken(job: GPUJob, taken: Sequence[GPUPartition], now: datetime) -> JobPlan:
    """The job cannot begin an attempt while those partitions of others are there."""
    names = ", ".join(str(partition.key) for partition in taken[:3])
    message = f"its partition cannot be made: somebody else has {names}; delete that, or rename the job"
    status = job_status.waiting(job.status, JobReason.NAME_TAKEN, message, now)
    before = condition(job.status.conditions, JobCondition.SCHEDULED)
    new = before != condition(status.conditions, JobCondition.SCHEDULED)
    event = EventDraft("Warning", JobReason.NAME_TAKEN, message)
    return JobPlan(status, wake=TAKEN_POLL, events=(event,) if new else ())


def status_refused(view: JobView, why: str) -> JobPlan:
    """The job's status cannot be written. What runs is stopped; then the job fails, with the least that says so."""
    job, attempt = view.job, view.job.status.live_attempt
    alive = view.alive(view.held(attempt))
    ahead = tuple(partition for partition in view.held(job.status.next) if not partition.deleting)
    if alive:
        reached = [r for r in alive if not isinstance(view.replicas[r], Unknown)]
        return JobPlan(job.status, stop={r: parse_duration(job_partitions.grace(job)) for r in reached}, wake=STOP_POLL)
    attempts: tuple[Attempt, ...] = ()
    if attempt is not None:
        over = Attempt(number=attempt.number, node=attempt.node, start_time=attempt.start_time)
        attempts = (_ended(over, Cause(AttemptReason.STATUS_REFUSED), view, None),)
    small = GPUJobStatus(
        observed_generation=job.metadata.generation or 0, attempts=attempts, attempt_count=job.status.attempt_count,
        failures=job.status.failures, start_time=job.status.start_time,
        call=CallStatus(outcome=CRASHED, text="its status cannot be written") if job.spec.call else None,
    )  # fmt: skip
    message = f"its status cannot be written: {why}"
    status = job_status.failed(small, AttemptReason.STATUS_REFUSED, message, view.now)
    return JobPlan(status, discard=ahead, remove=attempt is not None, events=(outcome.end_event(status),))
