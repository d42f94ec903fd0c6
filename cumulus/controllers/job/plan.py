"""What follows for one job from its partitions and its workloads: pure, no I/O.

A job goes through attempts. An attempt is recorded in status in the transaction that creates its partitions, so that
its number is never used again; it ends in one status write, once none of its workloads is left alive; the next
one begins only when the last one's leases are over. Nothing is written that was not observed.
`job_outcome` decides what the end of an attempt means for the job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from cumulus.backends.base import Observed, State
from cumulus.clock import parse_timestamp, timestamp
from cumulus.controllers.job import conditions as job_status
from cumulus.controllers.job import objects, outcome
from cumulus.controllers.job import replicas as job_replicas
from cumulus.controllers.job.outcome import Cause, Said
from cumulus.controllers.job.replicas import RefusedStart, Replica, Unknown
from cumulus.controllers.partition.plan import over_by_time
from cumulus.lib.truncate import LONGEST_WORD, truncate
from cumulus.resources.conditions import condition_set
from cumulus.resources.job import Attempt, GPUJob, GPUJobStatus, JobPhase
from cumulus.resources.meta import REPLICA_LABEL, condition
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.quantity import parse_duration

LOST_MARGIN = 60.0
"""Seconds past a lease's end and grace after which a node that does not answer is taken to have ended it: more than
clocks differ. Until then, unreachable is not dead."""

STUCK_SECONDS = 60.0
"""How long an attempt that has not started waits for a node that does not answer."""

OVERRUN_MARGIN = 5.0
"""Seconds past a lease's end and grace after which a workload that its node should have ended is killed from here."""

UNKNOWN_POLL = 5.0
"""Seconds between looks at workloads whose node does not answer: nobody tells when it answers again."""

STOP_POLL = 1.0
"""Seconds between looks at workloads that are being ended; the backend's reports usually come first."""


TAKEN_POLL = 10.0
"""Seconds between looks at whether a name that a job needs is free."""


KEPT_PARTITIONS = 16
"""Names of partitions that are kept of an attempt that is over: those of a large gang would fill the status."""


@dataclass(frozen=True, slots=True)
class View:
    """What a plan is made from. `partitions` are all that the job owns, `replicas` those of the running attempt."""

    job: GPUJob
    partitions: Sequence[GPUPartition]
    replicas: Sequence[Replica]
    now: datetime
    lost_nodes: frozenset[str] = frozenset()
    """Nodes that are not Ready, or not there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order: `start` and `stop` (then look again), or write `status` with what is created and
    discarded in one transaction, then `remove` the workloads of the attempt that ended."""

    status: GPUJobStatus
    create: tuple[GPUPartition, ...] = ()
    discard: tuple[GPUPartition, ...] = ()
    update: tuple[GPUPartition, ...] = ()
    """Waiting partitions with the priority that the job has now."""
    start: tuple[int, ...] = ()
    stop: Mapping[int, float] = field(default_factory=dict)
    """Replica -> seconds of grace."""
    remove: bool = False
    wake: float | None = None
    says: tuple[Said, ...] = ()
    """Events. That of the job's end is written together with its status."""


def live_attempt(status: GPUJobStatus) -> Attempt | None:
    """The attempt that was begun and has not ended."""
    last = status.attempts[-1] if status.attempts else None
    return last if last is not None and last.end_time is None else None


def plan(view: View) -> Plan:
    """The next step of a job that is not being deleted."""
    job = view.job
    seen = job.status.model_copy(update={"observed_generation": job.metadata.generation or 0})
    view = View(job.replace(status=seen), view.partitions, view.replicas, view.now, view.lost_nodes)
    if seen.phase.finished:
        return Plan(seen)
    attempt = live_attempt(seen)
    made = _between_attempts(view) if attempt is None else _during(view, attempt)
    return replace(made, says=(outcome.end_event(made.status),)) if made.status.phase.finished else made


def _between_attempts(view: View) -> Plan:
    job, status = view.job, view.job.status
    if job.spec.suspend:
        return Plan(job_status.suspended(status, view.now))
    status = job_status.resumed(status, view.now)
    left = _deadline_left(job, view.now)
    if left is not None and left <= 0:
        return Plan(outcome.failed(status, "DeadlineExceeded", "activeDeadline was over", view.now))
    wait = outcome.next_due(job, view.now)
    if wait > 0:
        message = f"attempt {status.attempt_count + 1} waits after {status.attempts[-1].reason}"
        status = job_status.waiting(status, "BackingOff", message, view.now)
        return Plan(status, wake=wait if left is None else min(wait, left))
    if any(_holds(partition, view) for partition in view.partitions):
        status = job_status.waiting(status, "Releasing", "the last attempt's leases are being given back", view.now)
        return Plan(status, wake=STOP_POLL * 10)
    return _begin(view, status)


def _begin(view: View, status: GPUJobStatus) -> Plan:
    job, number = view.job, status.attempt_count + 1
    names = objects.partition_names(job, number)
    attempt = Attempt(number=number, partitions=names, queue_time=outcome.queue_time(job, status, view.now))
    status = job_status.waiting(status, "Queued", "", view.now)
    status = status.model_copy(
        update={"attempts": (*status.attempts, attempt)[-outcome.KEPT_ATTEMPTS :], "attempt_count": number}
    )
    discard = tuple(partition for partition in view.partitions if not partition.deleting)
    return Plan(status, create=objects.partitions(job.replace(status=status), number), discard=discard)


def renamed(job: GPUJob, plan: Plan) -> Plan:
    """A plan that begins an attempt, with other names for its partitions: theirs are taken by somebody else's."""
    mark = job.uid.replace("-", "")[:8]
    create = tuple(
        partition.replace(metadata=partition.metadata.model_copy(update={"name": f"{partition.metadata.name}-{mark}"}))
        for partition in plan.create
    )
    attempts = plan.status.attempts
    last = attempts[-1].model_copy(update={"partitions": tuple(partition.metadata.name for partition in create)})
    return replace(plan, create=create, status=plan.status.model_copy(update={"attempts": (*attempts[:-1], last)}))


def refused(view: View, why: str) -> Plan:
    """The job's status cannot be written. What runs is stopped; then the job fails, with the least that says so."""
    job, attempt = view.job, live_attempt(view.job.status)
    held = [p for p in view.partitions if attempt is not None and p.metadata.name in attempt.partitions]
    alive = [r for r, replica in enumerate(view.replicas) if _alive(replica) and not _lost(view, held, r)]
    if alive:
        reached = [r for r in alive if not isinstance(view.replicas[r], Unknown)]
        return Plan(job.status, stop={r: parse_duration(objects.grace(job)) for r in reached}, wake=STOP_POLL)
    attempts: tuple[Attempt, ...] = ()
    if attempt is not None:
        over = Attempt(number=attempt.number, node=attempt.node, start_time=attempt.start_time)
        attempts = (_ended(over, Cause("StatusRefused"), view, None),)
    small = GPUJobStatus(
        observed_generation=job.metadata.generation or 0, attempts=attempts, attempt_count=job.status.attempt_count,
        failures=job.status.failures, start_time=job.status.start_time,
    )  # fmt: skip
    status = outcome.failed(small, "StatusRefused", f"its status cannot be written: {why}", view.now)
    return Plan(status, remove=attempt is not None, says=(outcome.end_event(status),))


def blocked(job: GPUJob, taken: Sequence[GPUPartition], now: datetime) -> Plan:
    """The job cannot begin an attempt while those partitions of others are there."""
    names = ", ".join(str(partition.key) for partition in taken[:3])
    message = f"its partition cannot be made: {names} is there and not its own; delete that, or make the job anew"
    status = job_status.waiting(job.status, "NameTaken", message, now)
    new = condition(job.status.conditions, "Scheduled") != condition(status.conditions, "Scheduled")
    return Plan(status, wake=TAKEN_POLL, says=(Said("Warning", "NameTaken", message),) if new else ())


def _during(view: View, attempt: Attempt) -> Plan:
    held = [p for p in view.partitions if p.metadata.name in set(attempt.partitions)]
    attempt = _noted(attempt, held, view.replicas)
    cause = _cause(view, attempt, held)
    if cause is None:
        return _going_on(view, attempt, held)
    alive = [r for r, replica in enumerate(view.replicas) if _alive(replica) and not _lost(view, held, r)]
    if alive:
        return _stopping(view, attempt, alive, held)
    if cause.reason == "Completed":
        job = view.job.replace(status=job_status.ran(view.job.status, view.now))
        view = View(job, view.partitions, view.replicas, view.now, view.lost_nodes)
    checkpoint = job_replicas.checkpoint_time(view.replicas)
    cause = outcome.judged(view.job, attempt, cause, checkpoint)
    ended = _ended(attempt, cause, view, checkpoint)
    status, says = outcome.end_attempt(view.job, ended, cause, view.now)
    return Plan(status, remove=True, says=says, wake=0.0 if not status.phase.finished else None)


def _going_on(view: View, attempt: Attempt, held: Sequence[GPUPartition]) -> Plan:
    """Nothing ends the attempt: it waits for its partitions, starts, or runs."""
    job, now = view.job, timestamp(view.now)
    status = job.status.model_copy(update={"attempts": (*job.status.attempts[:-1], attempt)})
    unbound = next((p for p in held if p.status.phase is PartitionPhase.PENDING), None)
    if unbound is not None:
        bound = condition(unbound.status.conditions, "Bound")
        reason, message = (bound.reason, bound.message) if bound is not None else ("Queued", "")
        waiting = job_status.waiting(status, reason, message, view.now)
        return Plan(waiting, update=_reprioritized(job, held), wake=_wake(view, held))
    conditions = condition_set(status.conditions, now, "Scheduled", True, "Bound")
    active = all(p.status.phase is PartitionPhase.ACTIVE for p in held)
    conditions = condition_set(conditions, now, "PartitionsReady", active, "Active" if active else "Granting")
    running = active and all(_runs(r, job.status.phase) for r in view.replicas)
    conditions = condition_set(conditions, now, "Running", running, "Started" if running else "Starting")
    phase = JobPhase.RUNNING if running else JobPhase.SCHEDULED
    if running and any(_ending(p) for p in held):
        phase = _interrupted(job)
    update = {"conditions": conditions, "phase": phase}
    if attempt.start_time is not None and status.start_time is None:
        update["start_time"] = attempt.start_time
    status = status.model_copy(update=update)
    start = tuple(r for r, replica in enumerate(view.replicas) if replica is None) if active else ()
    says = (Said("Normal", "Started", f"attempt {attempt.number} runs on {attempt.node}"),)
    began = running and job.status.phase is not JobPhase.RUNNING and phase is JobPhase.RUNNING
    return Plan(status, start=start, says=says if began else (), wake=_wake(view, held))


def _reprioritized(job: GPUJob, held: Sequence[GPUPartition]) -> tuple[GPUPartition, ...]:
    return tuple(
        partition.replace(spec=partition.spec.model_copy(update={"priority": job.spec.priority}))
        for partition in held
        if partition.status.phase is PartitionPhase.PENDING and partition.spec.priority != job.spec.priority
    )


def _stopping(view: View, attempt: Attempt, alive: Sequence[int], held: Sequence[GPUPartition]) -> Plan:
    """Some workloads are alive that must not go on: ask for their end, and wait for it."""
    job = view.job
    update: dict[str, object] = {"attempts": (*job.status.attempts[:-1], attempt)}
    if job.status.phase is JobPhase.RUNNING:
        update["phase"] = _interrupted(job)
    graces = {
        r: _stop_grace(view, job_replicas.shares_of(held, r))
        for r in alive
        if not isinstance(view.replicas[r], Unknown)
    }
    stop = {r: grace for r, grace in graces.items() if grace is not None}
    return Plan(job.status.model_copy(update=update), stop=stop, wake=STOP_POLL)


def _stop_grace(view: View, mine: Sequence[GPUPartition]) -> float | None:
    """Seconds of grace for a workload that must end; None where its node is ending it and it has time left."""
    if any(over_by_time(partition, view.now, OVERRUN_MARGIN) for partition in mine):
        return 0.0
    if any(_ending(partition) for partition in mine):
        return None
    return parse_duration(objects.grace(view.job))


def _cause(view: View, attempt: Attempt, held: Sequence[GPUPartition]) -> Cause | None:
    """Why the attempt must end, or has ended; None while it may go on. What the job did itself comes first."""
    replicas = view.replicas
    done = [r for r in replicas if isinstance(r, Observed) and job_replicas.done(view.job, r)]
    if replicas and len(done) == len(replicas):
        return Cause("Completed", next((r.message for r in done if r.message), ""), exit_code=0)
    refused = next((r for r in replicas if isinstance(r, RefusedStart)), None)
    if refused is not None:
        return Cause("StartRefused", refused.message)
    failed = job_replicas.failure(replicas, held)
    if failed is not None and failed.reason not in ("Stopped", "LeaseReleased"):
        return failed
    cause = _from_outside(view, attempt, held)
    if cause is None or failed is None:
        return cause or failed
    return replace(cause, exit_code=failed.exit_code)


def _from_outside(view: View, attempt: Attempt, held: Sequence[GPUPartition]) -> Cause | None:
    """Why it may not go on, whatever it does."""
    if view.job.spec.suspend:
        return Cause("Suspended")
    left = _deadline_left(view.job, view.now)
    if left is not None and left <= 0:
        return Cause("Deadline", "activeDeadline was over")
    return _lost_share(view, attempt, held)


def _lost_share(view: View, attempt: Attempt, held: Sequence[GPUPartition]) -> Cause | None:
    """What happened to the partitions that the attempt cannot survive."""
    for partition in held:
        name, status = partition.metadata.name, partition.status
        if status.phase is PartitionPhase.FAILED:
            ended = condition(status.conditions, "Ended")
            reason = "NodeLost" if ended is not None and ended.reason in ("NodeGone", "LeaseLost") else "GrantFailed"
            return Cause(reason, f"{name}: {ended.message}" if ended is not None else name)
        if status.phase is PartitionPhase.EXPIRED:
            return Cause("LeaseExpired")
        if status.phase is PartitionPhase.RELEASED or partition.deleting:
            return Cause("LeaseReleased", f"{name} was released")
        if over_by_time(partition, view.now, LOST_MARGIN) and status.node in view.lost_nodes:
            return Cause("NodeLost", f"{status.node} did not answer before the lease was over")
        if over_by_time(partition, view.now, OVERRUN_MARGIN):
            return Cause("LeaseExpired")
        if _stuck(partition, view):
            return Cause("NodeUnreachable", f"{status.node} does not answer")
    if len(held) < len(attempt.partitions):
        return Cause("LeaseReleased", "a partition was deleted")
    return None


def _stuck(partition: GPUPartition, view: View) -> bool:
    if partition.status.phase is not PartitionPhase.BOUND or partition.status.node not in view.lost_nodes:
        return False
    return _stuck_left(partition, view.now) <= 0


def _stuck_left(partition: GPUPartition, now: datetime) -> float:
    bound = condition(partition.status.conditions, "Bound")
    if bound is None or not bound.last_transition_time:
        return STUCK_SECONDS
    return STUCK_SECONDS - (now - parse_timestamp(bound.last_transition_time)).total_seconds()


def _runs(replica: Replica, phase: JobPhase) -> bool:
    """Whether it runs, as far as is known: one whose node has fallen silent goes on as it was seen last."""
    if isinstance(replica, Unknown):
        return phase in (JobPhase.RUNNING, JobPhase.CHECKPOINTING)
    return isinstance(replica, Observed) and replica.state is not State.STARTING


def _alive(replica: Replica) -> bool:
    return isinstance(replica, Unknown) or (isinstance(replica, Observed) and not replica.state.finished)


def _lost(view: View, held: Sequence[GPUPartition], replica: int) -> bool:
    """Whether the replica's node is gone for good, or silent until long after its leases were over."""
    mine = job_replicas.shares_of(held, replica)
    return bool(mine) and all(
        p.status.node in view.lost_nodes
        and (p.status.phase is PartitionPhase.FAILED or over_by_time(p, view.now, LOST_MARGIN))
        for p in mine
    )


def _holds(partition: GPUPartition, view: View) -> bool:
    """Whether a workload of an earlier attempt could still run in this partition."""
    if partition.status.phase.ended or partition.status.phase is PartitionPhase.PENDING:
        return False
    if partition.status.phase is PartitionPhase.BOUND and partition.status.node in view.lost_nodes:
        # Workloads start only once all partitions are Active, and this one never was.
        return False
    return not (partition.status.node in view.lost_nodes and over_by_time(partition, view.now, LOST_MARGIN))


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


def _ended(attempt: Attempt, cause: Cause, view: View, checkpoint: str | None) -> Attempt:
    finished = [r.finished_at for r in view.replicas if isinstance(r, Observed) and r.finished_at]
    return attempt.model_copy(
        update={
            "end_time": max(finished) if finished else timestamp(view.now),
            "exit_code": cause.exit_code,
            "reason": truncate(cause.reason, LONGEST_WORD),
            "message": truncate(cause.message),
            "checkpoint_time": checkpoint or None,
            "partitions": attempt.partitions[:KEPT_PARTITIONS],
        }
    )


def _interrupted(job: GPUJob) -> JobPhase:
    """The phase between the stop signal and the end."""
    return JobPhase.CHECKPOINTING if job.spec.checkpoint is not None else job.status.phase


def _ending(partition: GPUPartition) -> bool:
    return any(c.type == "Ended" and c.reason == "Ending" for c in partition.status.conditions)


def _deadline_left(job: GPUJob, now: datetime) -> float | None:
    if job.spec.active_deadline is None or job.status.start_time is None:
        return None
    age = (now - parse_timestamp(job.status.start_time)).total_seconds()
    return parse_duration(job.spec.active_deadline) - age


def _wake(view: View, held: Sequence[GPUPartition]) -> float | None:
    """When time alone, without any event, would change the plan."""
    waits = [left for left in (_deadline_left(view.job, view.now),) if left is not None]
    if any(isinstance(replica, Unknown) for replica in view.replicas):
        waits.append(UNKNOWN_POLL)
    for partition in held:
        if partition.status.expires_at is not None:
            over = parse_timestamp(partition.status.expires_at) - view.now
            waits.append(over.total_seconds() + parse_duration(partition.spec.grace_period) + OVERRUN_MARGIN + 1)
        elif partition.status.phase is PartitionPhase.BOUND and partition.status.node in view.lost_nodes:
            waits.append(_stuck_left(partition, view.now))
    return max(0.1, min(waits)) if waits else None
