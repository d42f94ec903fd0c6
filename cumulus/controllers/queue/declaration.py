"""What the queue controller is made of and what wakes it."""

from __future__ import annotations

from cumulus.controllers.context import ControllerContext
from cumulus.controllers.partition_watches import LIVE
from cumulus.controllers.queue.controller import ALL, NAME, SETTLE, QueueReconciler
from cumulus.machinery.cache import Cache
from cumulus.machinery.controller import Controller, WatchedKind, respecified
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Request
from cumulus.resources.partition import GPUPartition
from cumulus.resources.queue import Queue


def where_there_are_queues(change: Change, cache: Cache) -> tuple[Request, ...]:
    return (ALL,) if cache.keys(Queue.KIND) else ()


CONTROLLERS = (
    Controller[ControllerContext, QueueReconciler](
        name=NAME,
        build=lambda context: QueueReconciler(context.cache, context.client, context.clock),
        resync=lambda context: (ALL,) if context.cache.keys(Queue.KIND) else (),
        watches=(
            WatchedKind(Queue.KIND, where_there_are_queues, when=respecified, after=SETTLE),
            WatchedKind(GPUPartition.KIND, where_there_are_queues, after=SETTLE),
        ),
        indexes=(LIVE,),
    ),
)
