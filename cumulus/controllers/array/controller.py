"""Reconciles one GPUJobArray: makes the jobs that are next, as its submitter, and deletes old ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress

from cumulus.clock import Clock
from cumulus.controllers.array.plan import ArrayPlan, plan
from cumulus.errors import AlreadyExists, Forbidden, InvalidObject, NotFound
from cumulus.gitops.room import SubmitterAccess
from cumulus.machinery.cache import Index, Reader, all_owned
from cumulus.machinery.reconcile import Done, Request, RequeueAfter, Result
from cumulus.machinery.recorder import EventRecorder
from cumulus.machinery.writes import write_status
from cumulus.resources import index_ranges
from cumulus.resources.condition_types import ArrayCondition
from cumulus.resources.job import GPUJob
from cumulus.resources.job_array import GPUJobArray
from cumulus.resources.key import Document
from cumulus.resources.meta import condition
from cumulus.resources.reasons import EventReason
from cumulus.resources.submitter import Submitter
from cumulus.store.base import Write
from cumulus.store.client import StoreClient

NAME = "array"

AGAIN_SECONDS = 30.0
"""Until jobs that were refused are tried again: a role, or a queue, may come, and a name be free."""

VISIBLE_WITHIN = 1.0
"""Seconds until the reader is looked at again where it does not show yet what the store has."""


def _stem(job: Document) -> Iterable[str]:
    """What the names of an array's jobs have in common."""
    name = job["metadata"]["name"]
    stem, _, index = name.rpartition("-")
    is_index = index.isascii() and index.isdecimal() and str(int(index)) == index
    return (f"{job['metadata'].get('namespace')}/{stem}",) if is_index else ()


BY_STEM = Index(GPUJob.KIND, _stem)
"""Jobs that are named as those of an array are, under namespace/name of that array."""


class ArrayReconciler:
    def __init__(
        self, reader: Reader, client: StoreClient, clock: Clock, recorder: EventRecorder, submitters: SubmitterAccess
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
        jobs = self._jobs(array)
        taken = frozenset(self._taken(array, jobs))
        wanted = plan(array, jobs, self._clock.now(), taken)
        for job in wanted.forget:
            with suppress(NotFound):
                self._client.delete(job)
        if not wanted.create:
            self._say(array, wanted)
            return RequeueAfter(AGAIN_SECONDS) if wanted.blocked else Done()
        try:
            self._make(array, wanted)
        except AlreadyExists:
            # The reader does not show that job yet.
            return RequeueAfter(VISIBLE_WITHIN)
        except (Forbidden, InvalidObject) as error:
            self._say(array, plan(array, jobs, self._clock.now(), taken, refused=f"cannot make its jobs: {error}"))
            return RequeueAfter(AGAIN_SECONDS)
        self._tell(array, wanted)
        return RequeueAfter(AGAIN_SECONDS) if wanted.blocked else Done()

    def _say(self, array: GPUJobArray, wanted: ArrayPlan) -> None:
        if wanted.status != array.status:
            write_status(self._client, array.replace(status=wanted.status))
            self._tell(array, wanted)

    def _tell(self, array: GPUJobArray, wanted: ArrayPlan) -> None:
        """An event where something else is in the way than before."""
        said = condition(wanted.status.conditions, ArrayCondition.JOBS_MADE)
        if said is None or said.status == "True" or said == condition(array.status.conditions, said.type):
            return
        self._recorder.record(array, "Warning", EventReason.FAILED_CREATE, said.message, component=NAME)

    def _taken(self, array: GPUJobArray, own: Collection[int]) -> Iterator[int]:
        """Indexes after which jobs are named that are not its own, or not to be read."""
        stem = f"{array.metadata.namespace}/{array.metadata.name}"
        named = (int(key.name.rpartition("-")[2]) for key in self._reader.indexed(BY_STEM, stem))
        return (index for index in named if index not in own)

    def _jobs(self, array: GPUJobArray) -> dict[int, GPUJob]:
        """All that it owns, by index."""
        names = map(array.job_name, index_ranges.parse(array.status.active))
        found = all_owned(self._reader, self._client.store, array, GPUJob, names)
        indexes = ((job.metadata.name.removeprefix(f"{array.metadata.name}-"), job) for job in found)
        return {int(index): job for index, job in indexes if index.isdecimal()}

    def _make(self, array: GPUJobArray, wanted: ArrayPlan) -> None:
        """The jobs and the status, all or nothing."""
        writes = [Write("create", array.job(index).to_json()) for index in wanted.create]
        own = Write("status", array.replace(status=wanted.status).to_json())
        self._submitters.commit(
            Submitter.of(array.metadata.annotations), writes, [own], fence=self._client.fence,
            owner=array.owner_reference().to_json(),
        )  # fmt: skip
