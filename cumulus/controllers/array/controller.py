"""Reconciles one GPUJobArray: makes the jobs that are next, as its submitter, and deletes old ones."""

from __future__ import annotations

from contextlib import suppress

from cumulus.clock import Clock
from cumulus.controllers.array.plan import ArrayPlan, plan
from cumulus.errors import AlreadyExists, Forbidden, InvalidObject, NotFound
from cumulus.gitops.room import Submitters
from cumulus.machinery.cache import Reader, StoreReader
from cumulus.machinery.reconcile import After, Done, Request, Result
from cumulus.machinery.recorder import Recorder
from cumulus.machinery.writes import write_status
from cumulus.resources import index_ranges
from cumulus.resources.job import GPUJob
from cumulus.resources.job_array import GPUJobArray
from cumulus.resources.reasons import EventReason
from cumulus.resources.submitter import Submitter
from cumulus.store.base import Write
from cumulus.store.client import Client

NAME = "array"

AGAIN_SECONDS = 30.0
"""Until jobs that were refused are tried again: a role, or a queue, may come."""


class ArrayReconciler:
    def __init__(
        self, reader: Reader, client: Client, clock: Clock, recorder: Recorder, submitters: Submitters
    ) -> None:
        self._reader = reader
        self._client = client
        self._clock = clock
        self._recorder = recorder
        self._submitters = submitters

    def reconcile(self, request: Request) -> Result:
        array = self._reader.get(GPUJobArray, *request)
        if array is None or array.deleting:
            return Done()
        wanted = plan(array, self._jobs(array), self._clock.now())
        for job in wanted.forget:
            with suppress(NotFound):
                self._client.delete(job)
        if not wanted.create:
            if wanted.status != array.status:
                write_status(self._client, array.replace(status=wanted.status))
            return Done()
        try:
            self._make(array, wanted)
        except (Forbidden, InvalidObject, AlreadyExists) as error:
            message = f"cannot make its jobs: {error}"
            self._recorder.record(array, "Warning", EventReason.FAILED_CREATE, message, component=NAME)
            return After(AGAIN_SECONDS)
        return Done()

    def _jobs(self, array: GPUJobArray) -> dict[int, GPUJob]:
        """All that it owns, by index. Absence is never believed of a cache."""
        found = {job.metadata.name: job for job in self._reader.owned(GPUJob, array.uid)}
        store = StoreReader(self._client.store)
        namespace = array.metadata.namespace or ""
        for name in map(array.job_name, index_ranges.parse(array.status.active)):
            if name not in found:
                job = store.get(GPUJob, namespace, name)
                if job is not None and job.is_owned_by(array.uid):
                    found[name] = job
        indexes = ((name.removeprefix(f"{array.metadata.name}-"), job) for name, job in found.items())
        return {int(index): job for index, job in indexes if index.isdecimal()}

    def _make(self, array: GPUJobArray, wanted: ArrayPlan) -> None:
        """The jobs and the status, all or nothing."""
        count = len(index_ranges.parse(array.spec.indexes))
        writes = [Write("create", array.job(index, count).to_json()) for index in wanted.create]
        own = Write("status", array.replace(status=wanted.status).to_json())
        self._submitters.commit(
            Submitter.of(array.metadata.annotations), writes, [own], fence=self._client.fence,
            owner=array.owner_reference().to_json(),
        )  # fmt: skip
