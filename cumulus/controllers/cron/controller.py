"""Reconciles one GPUCronJob: makes the job that is due, as its submitter, and deletes old ones."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from cumulus.clock import Clock
from cumulus.controllers.cron.plan import CronPlan, job_name, plan
from cumulus.errors import AlreadyExists, Forbidden, InvalidObject, NotFound
from cumulus.gitops.room import SubmitterAccess
from cumulus.machinery.cache import Reader, all_owned
from cumulus.machinery.reconcile import Done, Request, RequeueAfter, Result
from cumulus.machinery.recorder import EventRecorder
from cumulus.machinery.writes import write_status
from cumulus.resources.cron_job import GPUCronJob
from cumulus.resources.job import GPUJob
from cumulus.resources.reasons import EventReason
from cumulus.resources.submitter import Submitter
from cumulus.store.base import Write
from cumulus.store.client import StoreClient

NAME = "cron"

AGAIN_SECONDS = 30.0
"""Until a job that was refused is tried again: a role, or a queue, may come."""


class CronReconciler:
    def __init__(
        self, reader: Reader, client: StoreClient, clock: Clock, recorder: EventRecorder, submitters: SubmitterAccess
    ) -> None:
        self._reader = reader
        self._client = client
        self._clock = clock
        self._recorder = recorder
        self._submitters = submitters
        self._refused: dict[Request, tuple[datetime, str]] = {}
        """What was told of a job that could not be made: for which time, and why."""

    def reconcile(self, request: Request) -> Result:
        cron = self._reader.get(GPUCronJob, *request)
        if cron is None or cron.deleting:
            self._refused.pop(request, None)
            return Done()
        wanted = plan(cron, self._jobs(cron), self._clock.now())
        for job in wanted.forget:
            with suppress(NotFound):
                self._client.delete(job)
        if wanted.due is None:
            if wanted.status != cron.status:
                write_status(self._client, cron.replace(status=wanted.status))
            for reason, message in wanted.told:
                self._tell(cron, reason, message)
            return Done() if wanted.wake is None else RequeueAfter(wanted.wake)
        try:
            self._make(cron, wanted)
        except (Forbidden, InvalidObject) as error:
            said = wanted.due, f"cannot make its job: {error}"
            if self._refused.get(request) != said:
                self._refused[request] = said
                self._tell(cron, EventReason.FAILED_CREATE, said[1])
            return RequeueAfter(AGAIN_SECONDS)
        return RequeueAfter(0.0 if wanted.wake is None else wanted.wake)

    def _jobs(self, cron: GPUCronJob) -> list[GPUJob]:
        """All that it owns."""
        return all_owned(self._reader, self._client.store, cron, GPUJob, cron.status.active)

    def _make(self, cron: GPUCronJob, wanted: CronPlan) -> None:
        """The job, what it replaces and the status, all or nothing."""
        assert wanted.due is not None
        name = job_name(cron, wanted.due)
        own = [Write("delete", key=job.key, uid=job.uid) for job in wanted.replace]
        own.append(Write("status", cron.replace(status=wanted.status).to_json()))
        submitter = Submitter.of(cron.metadata.annotations)
        try:
            self._submitters.commit(
                submitter, [Write("create", cron.job(name).to_json())], own, fence=self._client.fence,
                owner=cron.owner_reference().to_json(),
            )  # fmt: skip
        except AlreadyExists:
            # Its own of a time when the clock was ahead, or somebody else's: this time is over in any case.
            active = tuple(each for each in wanted.status.active if each != name)
            write_status(self._client, cron.replace(status=wanted.status.model_copy(update={"active": active})))
            self._tell(cron, EventReason.FAILED_CREATE, f"there is a job {name} already")
            return
        self._recorder.record(cron, "Normal", EventReason.SUCCESSFUL_CREATE, f"made the job {name}", component=NAME)

    def _tell(self, cron: GPUCronJob, reason: str, message: str) -> None:
        self._recorder.record(cron, "Warning", reason, message, component=NAME)
