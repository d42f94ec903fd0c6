"""What the job controller is made of and what wakes it."""

from __future__ import annotations

from collections.abc import Iterable

from cumulus.backends.base import ReportsFindings
from cumulus.controllers.context import ControllerContext
from cumulus.controllers.job.controller import NAME, JobReconciler
from cumulus.controllers.job_dependents import WAITS_FOR, came_ended_or_went, dependents
from cumulus.controllers.node_watches import matters_to_others
from cumulus.controllers.partition_watches import ON_NODE, is_bound, is_not_bound
from cumulus.machinery.cache import Cache, readable
from cumulus.machinery.controller import Controller, Push, WatchedKind, exists, itself, owner
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Request
from cumulus.resources.documents import owners_of
from cumulus.resources.job import GPUJob
from cumulus.resources.job_array import GPUJobArray
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition

BOUND_SETTLE_SECONDS = 0.1
"""A bound partition has its lease within this, as a rule: its job is looked at once for both."""


def owners_on_node(change: Change, cache: Cache) -> Iterable[Request]:
    """The jobs that have a partition on the node that changed."""
    found: dict[Request, None] = {}
    for key in sorted(cache.indexed(ON_NODE, change.key.name)):
        document = cache.document(key)
        for reference in owners_of(document, GPUJob.KIND) if document is not None else ():
            found[Request(key.namespace, reference["name"])] = None
    return found


def from_backends(context: ControllerContext, push: Push) -> None:
    """The jobs whose workloads may have changed."""
    for backend in context.backends.values():
        backend.subscribe(lambda namespace, job: push(Request(namespace, job)))


def from_others(context: ControllerContext, push: Push) -> None:
    context.changed_jobs.subscribe(push)


def tell_findings(context: ControllerContext) -> None:
    """What backends found of jobs that are still there becomes events of theirs."""
    for backend in context.backends.values():
        for found in backend.findings() if isinstance(backend, ReportsFindings) else ():
            job = readable(context.cache, GPUJob, found.namespace, found.job)
            if job is not None and job.uid == found.job_uid:
                context.recorder.record(job, "Warning", found.reason, found.message, component=backend.runtime)


CONTROLLERS = (
    Controller[ControllerContext, JobReconciler](
        name=NAME,
        kind=GPUJob.KIND,
        workers=4,
        build=lambda context: JobReconciler(
            context.cache,
            context.client,
            context.backends,
            context.clock,
            context.recorder,
            context.blobs,
            context.checkpoint_bucket,
            context.removals,
        ),
        watches=(
            WatchedKind(GPUJob.KIND, itself, when=exists),
            WatchedKind(GPUJob.KIND, dependents, when=came_ended_or_went),
            WatchedKind(GPUJobArray.KIND, dependents, when=came_ended_or_went),
            WatchedKind(GPUPartition.KIND, owner(GPUJob.KIND), when=is_not_bound),
            WatchedKind(GPUPartition.KIND, owner(GPUJob.KIND), when=is_bound, after=BOUND_SETTLE_SECONDS),
            WatchedKind(GPUNode.KIND, owners_on_node, when=matters_to_others),
        ),
        sources=(from_backends, from_others),
        indexes=(ON_NODE, WAITS_FOR),
        tick=tell_findings,
    ),
)
