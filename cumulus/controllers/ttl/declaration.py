"""What the ttl and tidy loops are made of and what wakes them."""

from __future__ import annotations

from cumulus.controllers.context import Context
from cumulus.controllers.ttl.controller import TIDY, TidyController, TtlController
from cumulus.machinery.controller import Controller, Watch, itself
from cumulus.machinery.informer import Change
from cumulus.resources.job import GPUJob


def has_ttl(change: Change) -> bool:
    return change.type != "DELETED" and "ttlAfterFinished" in change.new["spec"]


CONTROLLERS = (
    Controller[Context, TtlController](
        name="ttl",
        kind=GPUJob.KIND,
        build=lambda context: TtlController(context.cache, context.client, context.clock),
        watches=(Watch(GPUJob.KIND, itself, when=has_ttl),),
    ),
    Controller[Context, TidyController](
        name="tidy",
        build=lambda context: TidyController(context.client, context.clock),
        resync=lambda context: (TIDY,),
    ),
)
