"""What the cron controller is made of and what wakes it."""

from __future__ import annotations

from cumulus.controllers.context import ControllerContext
from cumulus.controllers.cron.controller import NAME, CronReconciler
from cumulus.controllers.job_watches import phase_changed
from cumulus.machinery.controller import Controller, WatchedKind, exists, itself, owner
from cumulus.resources.cron_job import GPUCronJob
from cumulus.resources.job import GPUJob


def build(context: ControllerContext) -> CronReconciler:
    assert context.sources is not None
    return CronReconciler(context.cache, context.client, context.clock, context.recorder, context.sources.submitters)


CONTROLLERS = (
    Controller[ControllerContext, CronReconciler](
        name=NAME,
        kind=GPUCronJob.KIND,
        build=build,
        watches=(
            WatchedKind(GPUCronJob.KIND, itself, when=exists),
            WatchedKind(GPUJob.KIND, owner(GPUCronJob.KIND), when=phase_changed),
        ),
        enabled=lambda context: context.sources is not None,
    ),
)
