"""What deleted jobs leave in the daemon's bucket goes, but not what somebody goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from cumulus.clock import FakeClock, timestamp
from cumulus.controllers.checkpoint.controller import LATE, REMOVE, REMOVE_SECONDS, RemovalReconciler
from cumulus.controllers.context import Removal
from cumulus.errors import BucketUnavailable
from cumulus.machinery.reconcile import Done, RequeueAfter
from cumulus.resources.job_checkpoint import Checkpoint
from cumulus.store.memory import MemoryStore
from tests.controllers.driver import Daemon, World, settle
from tests.controllers.objects import a_job
from tests.store.conftest import thing


class FakeRemovals:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.kept: dict[str, Removal] = {}
        self.removed: list[str] = []
        self.away = False

    def note(self, namespace: str, job: str, uid: str) -> None:
        self.kept.setdefault(uid, Removal(namespace, job, uid, timestamp(self.clock.now())))

    def noted(self) -> Sequence[Removal]:
        return list(self.kept.values())

    def remove(self, one: Removal) -> int:
        if self.away:
            raise BucketUnavailable("the bucket does not answer")
        self.removed.append(one.uid)
        self.kept[one.uid] = replace(one, done=True)
        return 1

    def forget(self, one: Removal) -> None:
        del self.kept[one.uid]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def removals(clock: FakeClock) -> FakeRemovals:
    return FakeRemovals(clock)


def test_it_is_tried_until_it_is_gone_and_once_more_a_day_later(clock: FakeClock, removals: FakeRemovals) -> None:
    reconciler = RemovalReconciler(MemoryStore(clock=clock), removals, clock)
    removals.note("team", "train", "u1")
    removals.away = True
    assert reconciler.reconcile(REMOVE) == RequeueAfter(REMOVE_SECONDS)
    assert removals.noted()[0].done is False
    removals.away = False
    reconciler.reconcile(REMOVE)
    reconciler.reconcile(REMOVE)
    assert removals.removed == ["u1"]
    clock.advance(LATE.total_seconds())
    reconciler.reconcile(REMOVE)
    assert removals.removed == ["u1", "u1"]
    assert removals.noted() == []
    assert RemovalReconciler(MemoryStore(clock=clock), None, clock).reconcile(REMOVE) == Done()


@pytest.mark.parametrize(
    ("source", "status", "kept"),
    [
        ("train", {"phase": "Pending"}, True),
        ("team/train", {"phase": "Running"}, True),
        ("train", {"phase": "Failed"}, False),
        ("train", {"phase": "Running", "checkpoint": {"step": 1}}, False),
        ("other", {"phase": "Pending"}, False),
        ("other/train", {"phase": "Pending"}, False),
    ],
)
def test_what_another_job_is_to_go_on_from_stays(
    clock: FakeClock, removals: FakeRemovals, source: str, status: dict[str, Any], kept: bool
) -> None:
    store = MemoryStore(clock=clock)
    spec = {"command": ["true"], "checkpoint": {"from": source}}
    store.create(thing("next", kind="GPUJob", namespace="team", spec=spec, status=status))
    removals.note("team", "train", "u1")
    RemovalReconciler(store, removals, clock).reconcile(REMOVE)
    assert removals.removed == ([] if kept else ["u1"])


@pytest.mark.parametrize(
    ("asked", "bucket", "goes"),
    [
        (Checkpoint(), True, True),
        (Checkpoint(when_deleted="Retain"), True, False),
        (Checkpoint(uri="s3://my/place"), True, False),
        (None, True, False),
        (Checkpoint(), False, False),
    ],
)
def test_a_job_that_is_deleted_leaves_what_is_its_own(asked: Checkpoint | None, bucket: bool, goes: bool) -> None:
    world = World()
    removals = FakeRemovals(world.clock)
    daemon = Daemon(world, removals=removals if bucket else None)
    world.apply(a_job("train", **({} if asked is None else {"checkpoint": asked})))
    settle(world, daemon, seconds=1.0)
    uid = world.job("train").uid
    world.client.delete(world.job("train"))
    settle(world, daemon, seconds=60.0)
    assert [each.uid for each in removals.noted()] == ([uid] if goes else [])
