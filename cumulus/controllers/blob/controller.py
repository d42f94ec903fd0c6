"""Collects blobs: those that no stored job names go when their retention is over."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import structlog

from cumulus.blob.base import BlobStore, owner_of
from cumulus.calls import documents
from cumulus.clock import Clock
from cumulus.machinery.pages import pages
from cumulus.machinery.reconcile import Done, Request, RequeueAfter, Result
from cumulus.resources.documents import lookup
from cumulus.resources.job import GPUJob
from cumulus.resources.key import Document
from cumulus.resources.submitter import Submitter
from cumulus.store.base import Store

_log = structlog.get_logger("cumulus.controllers")

COLLECT = Request("", "collect")
"""The collection's only key."""
COLLECT_SECONDS = 600.0


class CollectReconciler:
    """`retention` is in seconds, since a blob's last use."""

    def __init__(self, store: Store, blobs: BlobStore | None, clock: Clock, retention: float) -> None:
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._retention = timedelta(seconds=retention)

    def reconcile(self, request: Request) -> Result:
        if self._blobs is None:
            return Done()
        # Before the jobs are listed: who names a blob after that has found it after that, too.
        older_than = self._clock.now() - self._retention
        collected = self._blobs.collect({*self._named()}, older_than)
        if collected.count:
            _log.info("blobs that no job names were deleted", count=collected.count, bytes=collected.size)
        return RequeueAfter(COLLECT_SECONDS)

    def _named(self) -> Iterator[tuple[str, str]]:
        """Asked of the store itself: that something is gone is never believed of a cache."""
        for page in pages(self._store, GPUJob.KIND):
            for job in page.items:
                owner = owner_of(Submitter.of(lookup(job, "metadata.annotations")))
                yield from ((owner, name) for name in blobs_of(job))


def blobs_of(job: Document) -> Iterator[str]:
    """The blobs that the job names: whatever reads as a sha256 in its call, and in what became of it."""
    yield from _hashes(lookup(job, "spec.call"))
    yield from _hashes(lookup(job, "status.call"))


def _hashes(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if documents.is_digest(value):
            yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _hashes(each)
