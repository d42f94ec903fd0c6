"""What the node controller is made of and what wakes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from cumulus.backends.cluster import RUNTIME, ProgramsAnswer, runs_containers
from cumulus.controllers.context import ControllerContext
from cumulus.controllers.node.controller import NAME, NodeReconciler
from cumulus.controllers.node.host_jobs import (
    OFFERS_HOST_JOBS,
    WAITING_PROGRAMS,
    HostJobsOfNodes,
    new_program,
    nodes_to_ask,
)
from cumulus.controllers.node_watches import matters_to_others
from cumulus.controllers.partition_watches import (
    ACTIVE_ON_NODE,
    ON_NODE,
    OVERUSED_ON_NODE,
    PARKED_ON_NODE,
    lease_came_or_went,
    node_of,
)
from cumulus.errors import BackendError, NotOurs
from cumulus.machinery.cache import Cache
from cumulus.machinery.controller import Controller, Push, WatchedKind, itself
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Request
from cumulus.resources.documents import lookup
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.resources.reservation import Reservation


def runtimes_of_cluster(context: ControllerContext, name: str) -> tuple[str, ...] | None:
    """What the cluster runs there; None where its manager does not answer."""
    try:
        return (RUNTIME,) if context.cluster is not None and runs_containers(context.cluster, name) else ()
    except NotOurs:
        return ()
    except BackendError:
        return None


def programs_of_cluster(
    context: ControllerContext, name: str, users: Sequence[tuple[str, int]]
) -> ProgramsAnswer | None:
    """What the machine says of programs of its own disk; None where it cannot be asked."""
    try:
        return None if context.cluster is None else context.cluster.programs(name, users)
    except BackendError:
        return None


def build(context: ControllerContext) -> NodeReconciler:
    return NodeReconciler(
        context.cache, context.client, context.agents, context.clock, context.recorder,
        changed=context.changed_leases.push,
        offers=lambda name: runtimes_of_cluster(context, name),
        host_jobs=None if context.cluster is None else HostJobsOfNodes(
            context.cache, partial(programs_of_cluster, context), context.clock, context.shared_directories
        ),
        clustered=context.cluster is not None,
    )  # fmt: skip


def with_an_agent(context: ControllerContext) -> Iterable[Request]:
    """Also those that have no GPUNode yet."""
    return [Request("", name) for name in sorted(context.agents)]


def held_for_nobody(change: Change, cache: Cache) -> Iterable[Request]:
    """The nodes that a Reservation names, or named."""
    named = [lookup(each, "spec.nodes") or () for each in (change.old, change.new) if each is not None]
    return [Request("", name) for name in sorted({name for names in named for name in names})]


def settle(reconciler: NodeReconciler, request: Request) -> float:
    return reconciler.settle(request.name)


def from_others(context: ControllerContext, push: Push) -> None:
    context.changed_nodes.subscribe(push)


CONTROLLERS = (
    Controller[ControllerContext, NodeReconciler](
        name=NAME,
        kind=GPUNode.KIND,
        workers=8,
        build=build,
        resync=with_an_agent,
        watches=(
            WatchedKind(GPUNode.KIND, itself, when=matters_to_others),
            WatchedKind(GPUPartition.KIND, nodes_to_ask, when=new_program),
            WatchedKind(Reservation.KIND, held_for_nobody),
            WatchedKind(GPUPartition.KIND, node_of, when=lease_came_or_went, after=settle),
        ),
        sources=(from_others,),
        indexes=(ON_NODE, ACTIVE_ON_NODE, PARKED_ON_NODE, OVERUSED_ON_NODE, WAITING_PROGRAMS, OFFERS_HOST_JOBS),
    ),
)
