"""What the cron controller is made of and what wakes it."""

from __future__ import annotations

from cumulus.controllers.context import Context
from cumulus.controllers.cron.controller import NAME, CronReconciler
from cumulus.machinery.controller import Controller, Watch, exists, itself, owner
from cumulus.machinery.informer import Change
from cumulus.resources.cron_job import GPUCronJob
from cumulus.resources.documents import lookup
from cumulus.resources.job import GPUJob


def build(context: Context) -> CronReconciler:
    assert context.sources is not None
    return CronReconciler(context.cache, context.client, context.clock, context.recorder, context.sources.submitters)


def phase_changed(change: Change) -> bool:
    if change.type != "MODIFIED" or change.old is None:
        return True
    return bool(lookup(change.old, "status.phase") != lookup(change.new, "status.phase"))


CONTROLLERS = (
    Controller[Context, CronReconciler](
        name=NAME,
        kind=GPUCronJob.KIND,
        build=build,
        watches=(
            Watch(GPUCronJob.KIND, itself, when=exists),
            Watch(GPUJob.KIND, owner(GPUCronJob.KIND), when=phase_changed),
        ),
        enabled=lambda context: context.sources is not None,
    ),
)
