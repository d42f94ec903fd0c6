"""What the partition controller is made of and what wakes it."""

from __future__ import annotations

from cumulus.controllers.contention import free_for, waited_for
from cumulus.controllers.context import ControllerContext
from cumulus.controllers.node_watches import matters_to_others
from cumulus.controllers.partition.controller import NAME, PartitionReconciler
from cumulus.controllers.partition_watches import LIVE, ON_NODE, needs_its_node, on_node
from cumulus.machinery.controller import Controller, Push, WatchedKind, itself, owned
from cumulus.machinery.informer import Change
from cumulus.resources.job import GPUJob
from cumulus.resources.key import Document
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition

START_SETTLE_SECONDS = 1.0
"""So long after its program's start a node is told that a lease's time counts. That of a process knows, and a job that
is over by then needs it no more."""


def attempt_is_over(change: Change) -> bool:
    """The job runs no attempt: its partitions give their leases back."""
    return change.type != "DELETED" and _live_attempt(change.new) is None


def program_started(change: Change) -> bool:
    return change.type != "DELETED" and _started(change.new) and not _started(change.old or {})


def _live_attempt(job: Document) -> object:
    attempts = (job.get("status") or {}).get("attempts") or ()
    return attempts[-1] if attempts and not attempts[-1].get("endTime") else None


def _started(job: Document) -> bool:
    attempt = _live_attempt(job)
    return isinstance(attempt, dict) and bool(attempt.get("startTime"))


def build(context: ControllerContext) -> PartitionReconciler:
    return PartitionReconciler(
        context.cache, context.client, context.agents, context.clock, context.recorder, owner=context.owner,
        waited_for=lambda partition: waited_for(context.cache, partition, context.clock.now()),
        free_for=lambda partition: free_for(context.cache, partition, context.clock.now()),
    )  # fmt: skip


def from_others(context: ControllerContext, push: Push) -> None:
    context.changed_leases.subscribe(push)


CONTROLLERS = (
    Controller[ControllerContext, PartitionReconciler](
        name=NAME,
        kind=GPUPartition.KIND,
        workers=12,
        build=build,
        watches=(
            WatchedKind(GPUPartition.KIND, itself, when=needs_its_node),
            WatchedKind(GPUJob.KIND, owned(GPUPartition.KIND), when=attempt_is_over),
            WatchedKind(GPUJob.KIND, owned(GPUPartition.KIND), when=program_started, after=START_SETTLE_SECONDS),
            WatchedKind(GPUNode.KIND, on_node, when=matters_to_others),
        ),
        sources=(from_others,),
        indexes=(LIVE, ON_NODE),
    ),
)
