"""What the binding controller is made of and what wakes it.

People see it as `schedule`: in logs, metrics and as the source of events. Its name is part of what they filter by.
"""

from __future__ import annotations

from cumulus.controllers.binding.controller import NAME, QUEUE, BindingReconciler
from cumulus.controllers.context import Context
from cumulus.controllers.node_watches import matters_to_others
from cumulus.controllers.partition_watches import LIVE, changes_the_queue
from cumulus.machinery.cache import Cache
from cumulus.machinery.controller import Controller, Watch
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Request
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition


def the_queue(change: Change, cache: Cache) -> tuple[Request]:
    return (QUEUE,)


def rest(reconciler: BindingReconciler, request: Request) -> float:
    return reconciler.rest


CONTROLLERS = (
    Controller[Context, BindingReconciler](
        name=NAME,
        build=lambda context: BindingReconciler(
            context.cache, context.client, context.clock, context.policies, placed=context.placed
        ),
        resync=lambda context: (QUEUE,),
        watches=(
            Watch(GPUPartition.KIND, the_queue, when=changes_the_queue, after=rest),
            Watch(GPUNode.KIND, the_queue, when=matters_to_others, after=rest),
        ),
        indexes=(LIVE,),
    ),
)
