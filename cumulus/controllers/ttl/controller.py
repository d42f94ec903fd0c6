"""Deletes what is over after a time: finished jobs, events, and old revisions of the store."""

from __future__ import annotations

from datetime import timedelta

from cumulus.clock import Clock, parse_timestamp, timestamp
from cumulus.controllers.job_dependents import awaited
from cumulus.errors import Conflict, NotFound
from cumulus.machinery.cache import Reader
from cumulus.machinery.pages import pages
from cumulus.machinery.reconcile import Done, Request, RequeueAfter, Result
from cumulus.resources.event import Event
from cumulus.resources.job import GPUJob
from cumulus.resources.key import key_of
from cumulus.resources.quantity import parse_duration
from cumulus.store.base import Write
from cumulus.store.client import StoreClient

EVENT_SECONDS = 3600.0
"""How long an event is kept after it was last seen."""

AWAITED_SECONDS = 1.0
"""Until the next look at a job that others wait for: they have to see how it ended."""

TIDY = Request("", "tidy")
"""The tidy controller's only key."""
TIDY_SECONDS = 60.0


class TtlReconciler:
    """Deletes finished jobs once their spec.ttlAfterFinished has passed."""

    def __init__(self, reader: Reader, client: StoreClient, clock: Clock) -> None:
        self._reader = reader
        self._client = client
        self._clock = clock

    def reconcile(self, request: Request) -> Result:
        job = self._reader.get(GPUJob, *request)
        if job is None or job.deleting or not job.status.phase.finished:
            return Done()
        if job.spec.ttl_after_finished is None or job.status.completion_time is None:
            return Done()
        age = (self._clock.now() - parse_timestamp(job.status.completion_time)).total_seconds()
        left = parse_duration(job.spec.ttl_after_finished) - age
        if left > 0:
            return RequeueAfter(left)
        if awaited(self._reader, job):
            return RequeueAfter(AWAITED_SECONDS)
        self._client.store.delete(
            job.key, uid=job.uid, resource_version=job.metadata.resource_version, fence=self._client.fence
        )
        return Done()


class TidyReconciler:
    """Deletes old events, and lets the store forget old history."""

    def __init__(self, client: StoreClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    def reconcile(self, request: Request) -> Result:
        self._expire_events()
        self._client.store.retain()
        return RequeueAfter(TIDY_SECONDS)

    def _expire_events(self) -> None:
        store = self._client.store
        oldest = timestamp(self._clock.now() - timedelta(seconds=EVENT_SECONDS))
        for page in pages(store, Event.KIND):
            old = [item for item in page.items if item.get("lastTimestamp", "") < oldest]
            writes = [Write("delete", key=key_of(item), uid=item["metadata"]["uid"]) for item in old]
            if writes:
                try:
                    store.transact(writes, fence=self._client.fence)
                except (Conflict, NotFound):
                    return
