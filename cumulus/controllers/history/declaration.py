"""What the history controller is made of and what wakes it."""

from __future__ import annotations

from collections.abc import Iterable

from cumulus.controllers.context import ControllerContext
from cumulus.controllers.history.controller import LOG, NAME, NODE_SETTLE, OLD, SETTLE, USE, HistoryReconciler
from cumulus.machinery.cache import Cache
from cumulus.machinery.controller import Controller, WatchedKind
from cumulus.machinery.informer import Change
from cumulus.machinery.reconcile import Request
from cumulus.resources.node import GPUNode
from cumulus.resources.partition import GPUPartition
from cumulus.resources.reservation import Reservation


def to_record(change: Change, cache: Cache) -> Iterable[Request]:
    return (LOG,)


def build(context: ControllerContext) -> HistoryReconciler:
    assert context.history is not None
    return HistoryReconciler(context.history, context.agents, context.clock, store_id=context.owner)


CONTROLLERS = (
    Controller[ControllerContext, HistoryReconciler](
        name=NAME,
        build=build,
        enabled=lambda context: context.history is not None,
        resync=lambda context: (LOG, USE, OLD),
        watches=(
            WatchedKind(GPUPartition.KIND, to_record, after=SETTLE),
            WatchedKind(GPUNode.KIND, to_record, after=NODE_SETTLE),
            WatchedKind(Reservation.KIND, to_record, after=NODE_SETTLE),
        ),
        # Nodes take their time to answer, and the log goes on.
        workers=2,
    ),
)
