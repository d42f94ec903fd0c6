"""Deletes from the daemon's bucket the checkpoints of jobs that were deleted.

The deletion of a job waits for no bucket: it notes what is to go, and this tries until it is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import structlog

from cumulus.clock import Clock, parse_timestamp
from cumulus.controllers.context import Removal, Removals
from cumulus.errors import CumulusError
from cumulus.machinery.pages import pages
from cumulus.machinery.reconcile import Done, Request, RequeueAfter, Result
from cumulus.resources.documents import lookup
from cumulus.resources.job import GPUJob
from cumulus.resources.job_phase import JobPhase
from cumulus.resources.key import Document
from cumulus.store.base import Store

_log = structlog.get_logger("cumulus.controllers")

REMOVE = Request("", "remove")
"""The only key."""
REMOVE_SECONDS = 60.0
LATE = timedelta(hours=25)
"""After so long it is done once more: an uploader that a deleted job left behind goes on for a day."""


class RemovalReconciler:
    def __init__(self, store: Store, removals: Removals | None, clock: Clock) -> None:
        self._store = store
        self._removals = removals
        self._clock = clock

    def reconcile(self, request: Request) -> Result:
        if self._removals is None:
            return Done()
        now = self._clock.now()
        due = [each for each in self._removals.noted() if not each.done or now >= parse_timestamp(each.noted) + LATE]
        needed = {*self._needed()} if due else set()
        for each in due:
            if (each.namespace, each.job) not in needed:
                self._remove(self._removals, each, last=now >= parse_timestamp(each.noted) + LATE)
        return RequeueAfter(REMOVE_SECONDS)

    def _remove(self, removals: Removals, one: Removal, *, last: bool) -> None:
        try:
            count = removals.remove(one)
        except CumulusError as error:
            # The bucket may come back, or somebody mends the keys.
            _log.warning("checkpoints of a deleted job cannot be deleted", uid=one.uid, error=str(error))
            return
        if count:
            _log.info("checkpoints of a deleted job were deleted", namespace=one.namespace, job=one.job, objects=count)
        if last:
            removals.forget(one)

    def _needed(self) -> Iterator[tuple[str, str]]:
        """Namespace and name of jobs from whose last checkpoint another is to go on. Asked of the store itself."""
        for page in pages(self._store, GPUJob.KIND):
            yield from (key for job in page.items if (key := _source_of(job)) is not None)


def _source_of(job: Document) -> tuple[str, str] | None:
    source = lookup(job, "spec.checkpoint.from")
    if not isinstance(source, str) or JobPhase(lookup(job, "status.phase") or JobPhase.PENDING).finished:
        return None
    if lookup(job, "status.checkpoint") is not None:
        return None
    namespace, _, name = source.rpartition("/")
    return namespace or job["metadata"]["namespace"], name
