"""What the ttl and tidy controllers are made of and what wakes them."""

from __future__ import annotations

from cumulus.controllers.context import ControllerContext
from cumulus.controllers.job_dependents import WAITS_FOR
from cumulus.controllers.ttl.controller import TIDY, TidyReconciler, TtlReconciler
from cumulus.machinery.controller import Controller, WatchedKind, itself
from cumulus.machinery.informer import Change
from cumulus.resources.job import GPUJob


def has_ttl(change: Change) -> bool:
    return change.type != "DELETED" and "ttlAfterFinished" in change.new["spec"]


CONTROLLERS = (
    Controller[ControllerContext, TtlReconciler](
        name="ttl",
        kind=GPUJob.KIND,
        build=lambda context: TtlReconciler(context.cache, context.client, context.clock),
        watches=(WatchedKind(GPUJob.KIND, itself, when=has_ttl),),
        indexes=(WAITS_FOR,),
    ),
    Controller[ControllerContext, TidyReconciler](
        name="tidy",
        build=lambda context: TidyReconciler(context.client, context.clock),
        resync=lambda context: (TIDY,),
    ),
)
