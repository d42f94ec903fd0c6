"""To which nodes a job's checkpoint is brought before it is leased anything there. Pure.

The queue has promised a node, or the next attempt has its place already: then what the job saved comes there, beside
whatever still runs. The start asks for the newest all the same, so nothing depends on this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from cumulus.backends.base import Prefetched
from cumulus.clock import parse_timestamp
from cumulus.controllers.job.outcome import EventDraft
from cumulus.controllers.job.view import JobView, shares_of
from cumulus.lib.truncate import truncate
from cumulus.resources.job import Attempt, GPUJobStatus
from cumulus.resources.job_checkpoint import PrefetchedCheckpoint
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.resources.reasons import EventReason

HORIZON = 900.0
"""Seconds before a promised start from which on its node's disk is used for it."""


def coming(status: GPUJobStatus) -> Attempt | None:
    """The attempt that is to start next; None where none is queued."""
    live = status.live_attempt
    return status.next if status.next is not None else live if live is not None and live.start_time is None else None


def wanted(view: JobView) -> Mapping[int, str] | None:
    """Replica -> node. None where an attempt is being started, which sees to it itself."""
    job = view.job
    status, attempt = job.status, coming(job.status)
    if attempt is None or status.checkpoint is None or job.spec.checkpoint is None or job.spec.suspend or job.spec.park:
        return {}
    held = view.held(attempt)
    if attempt is not status.next and held and all(p.status.phase is PartitionPhase.ACTIVE for p in held):
        return None
    last = next((a for a in reversed(status.attempts) if a.number < attempt.number and a.node), None)
    found = {}
    for replica in range(job.spec.replicas):
        nodes = {_node(partition, view.now) for partition in shares_of(held, replica)}
        node = nodes.pop() if len(nodes) == 1 else ""
        # Where a replica ran last, its files are in the same directory, and may be in use.
        if node and last is not None and node not in (last.nodes or (last.node,)):
            found[replica] = node
    return found


def due(view: JobView) -> float | None:
    """Seconds until a promise is near enough; None where none is to be waited for."""
    attempt = coming(view.job.status)
    promises = [p.status.promise for p in view.held(attempt) if p.status.phase is PartitionPhase.PENDING]
    waits = [_left(promise.start_by, view.now) - HORIZON for promise in promises if promise is not None]
    return min((wait for wait in waits if wait > 0), default=None)


def _left(moment: str, now: datetime) -> float:
    return (parse_timestamp(moment) - now).total_seconds()


def _node(partition: GPUPartition, now: datetime) -> str:
    """Where it will be, as far as that is known; "" where it is not, or is too far away."""
    status = partition.status
    if partition.deleting or status.phase.ended:
        return ""
    if status.phase in (PartitionPhase.BOUND, PartitionPhase.ACTIVE):
        return status.node
    promise = status.promise if status.phase is PartitionPhase.PENDING else None
    return promise.node if promise is not None and _left(promise.start_by, now) <= HORIZON else ""


def told(attempt: int, found: Sequence[Prefetched]) -> PrefetchedCheckpoint | None:
    """What the job's status says of them."""
    if not found:
        return None
    failed = next((each for each in found if each.problem), None)
    steps = [each.step for each in found if each.step is not None]
    return PrefetchedCheckpoint(
        attempt=attempt,
        nodes=tuple(dict.fromkeys(each.node for each in found)),
        state="Failed" if failed is not None else "Arrived" if all(each.done for each in found) else "Fetching",
        step=max(steps, default=None),
        message="" if failed is None else truncate(failed.problem),
    )


def events(before: PrefetchedCheckpoint | None, after: PrefetchedCheckpoint | None) -> tuple[EventDraft, ...]:
    """One when it is there, and one where it did not come."""
    if after is None or after.state == "Fetching" or after == before:
        return ()
    nodes = ", ".join(after.nodes)
    if after.state == "Failed":
        message = f"to {nodes}, for attempt {after.attempt}: {after.message}; the start tries it again"
        return (EventDraft("Warning", EventReason.CHECKPOINT_NOT_PREFETCHED, truncate(message)),)
    if after.step is None:
        return ()
    message = f"step {after.step} is on {nodes}, for attempt {after.attempt}"
    return (EventDraft("Normal", EventReason.CHECKPOINT_PREFETCHED, message),)
