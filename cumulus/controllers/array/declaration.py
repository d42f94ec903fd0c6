"""What the array controller is made of and what wakes it."""

from __future__ import annotations

from cumulus.controllers.array.controller import BY_STEM, NAME, ArrayReconciler
from cumulus.controllers.context import ControllerContext
from cumulus.controllers.job_watches import phase_changed
from cumulus.machinery.controller import Controller, WatchedKind, exists, itself, owner
from cumulus.resources.job import GPUJob
from cumulus.resources.job_array import GPUJobArray


def build(context: ControllerContext) -> ArrayReconciler:
    assert context.sources is not None
    return ArrayReconciler(context.cache, context.client, context.clock, context.recorder, context.sources.submitters)


CONTROLLERS = (
    Controller[ControllerContext, ArrayReconciler](
        name=NAME,
        kind=GPUJobArray.KIND,
        build=build,
        watches=(
            WatchedKind(GPUJobArray.KIND, itself, when=exists),
            WatchedKind(GPUJob.KIND, owner(GPUJobArray.KIND), when=phase_changed),
        ),
        indexes=(BY_STEM,),
        enabled=lambda context: context.sources is not None,
    ),
)
