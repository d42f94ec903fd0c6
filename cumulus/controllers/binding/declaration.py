"""What the binding controller is made of and what wakes it.

People see it as `schedule`: in logs, metrics and as the source of events. Its name is part of what they filter by.
"""

from __future__ import annotations

from cumulus.controllers.binding.controller import NAME, QUEUE, BindingReconciler
from cumulus.controllers.context import ControllerContext
from cumulus.controllers.node_watches import matters_to_others
from cumulus.controllers.partition_watches import LIVE, became_active, changes_the_queue
from cumulus.machinery.cache import Cache
from cumulus.machinery.controller import Controller, WatchedKind, respecified
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Request
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.resources.queue import Queue
from cumulus.resources.queue_usage import QueueUsage
from cumulus.resources.reservation import Reservation


def the_queue(change: Change, cache: Cache) -> tuple[Request]:
    return (QUEUE,)


def the_queue_of_promises(change: Change, cache: Cache) -> tuple[Request, ...]:
    """Where there are queues: a lease whose end is known now lets others be promised what follows it."""
    return (QUEUE,) if cache.keys(Queue.KIND) else ()


def rest(reconciler: BindingReconciler, request: Request) -> float:
    return reconciler.rest


def nobody(change: Change, cache: Cache) -> tuple[Request, ...]:
    """Of use for the next cycle, whenever it is: the share that came free with it wakes the controller."""
    return ()


CONTROLLERS = (
    Controller[ControllerContext, BindingReconciler](
        name=NAME,
        build=lambda context: BindingReconciler(
            context.cache,
            context.client,
            context.clock,
            context.policies,
            placed=context.placed,
            recorder=context.recorder,
        ),
        resync=lambda context: (QUEUE,),
        watches=(
            WatchedKind(GPUPartition.KIND, the_queue, when=changes_the_queue, after=rest),
            WatchedKind(GPUPartition.KIND, the_queue_of_promises, when=became_active, after=rest),
            WatchedKind(GPUNode.KIND, the_queue, when=matters_to_others, after=rest),
            WatchedKind(Queue.KIND, the_queue, when=respecified, after=rest),
            WatchedKind(Reservation.KIND, the_queue, when=respecified, after=rest),
            WatchedKind(QueueUsage.KIND, nobody),
        ),
        indexes=(LIVE,),
    ),
)
