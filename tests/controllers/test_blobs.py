"""Blobs that no job names go, those of jobs stay."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from cumulus.blob.base import owner_of
from cumulus.blob.directory import DirectoryBlobStore
from cumulus.clock import FakeClock
from cumulus.controllers.blob.controller import COLLECT, COLLECT_SECONDS, CollectReconciler, blobs_of
from cumulus.machinery.reconcile import Done, RequeueAfter
from cumulus.resources.submitter import Submitter
from cumulus.store.memory import MemoryStore
from tests.store.conftest import thing

ANN, BEN = Submitter("ann", 1000), Submitter("ben", None)
A, B = ("a" * 64, "b" * 64)


def test_what_names_blobs() -> None:
    job = {"spec": {"call": {"payload": A, "python": "3.11"}}, "status": {"call": {"outputs": [{"result": B}]}}}
    assert [*blobs_of(job)] == [A, B]
    assert [*blobs_of({"spec": {"command": [A]}, "status": {"call": None}})] == []


def test_those_that_no_job_names_go_after_the_retention(tmp_path: Path) -> None:
    blobs = DirectoryBlobStore(tmp_path)
    clock = FakeClock(start=datetime.now(UTC))
    store = MemoryStore(clock=clock)
    names = {}
    for content in (b"payload", b"result", b"other"):
        names[content] = hashlib.sha256(content).hexdigest()
        for user in (ANN, BEN):
            blobs.write(owner_of(user), names[content], len(content), [content])
    call = {"payload": names[b"payload"]}
    status = {"call": {"result": names[b"result"]}}
    spec = {"command": ["true"], "call": call}
    store.create(thing("job", kind="GPUJob", spec=spec, status=status, annotations=ANN.annotations))
    collector = CollectReconciler(store, blobs, clock, retention=3600)
    assert collector.reconcile(COLLECT) == RequeueAfter(COLLECT_SECONDS)
    assert len([*tmp_path.rglob("*/*/" + "?" * 64)]) == 6
    clock.advance(3601)
    collector.reconcile(COLLECT)
    left = {
        (user.name, content) for user in (ANN, BEN) for content in names if blobs.find(owner_of(user), names[content])
    }
    assert left == {("ann", b"payload"), ("ann", b"result")}


def test_a_daemon_without_blobs() -> None:
    clock = FakeClock()
    assert CollectReconciler(MemoryStore(clock=clock), None, clock, 3600).reconcile(COLLECT) == Done()
