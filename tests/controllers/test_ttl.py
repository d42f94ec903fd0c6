"""What goes with time by itself: the store's history and old events."""

from __future__ import annotations

import pytest

from cumulus.clock import FakeClock
from cumulus.controllers.ttl.controller import EVENT_SECONDS, TIDY, TIDY_SECONDS, TidyReconciler
from cumulus.errors import Expired
from cumulus.machinery.reconcile import RequeueAfter
from cumulus.machinery.recorder import EventRecorder
from cumulus.resources.event import Event
from cumulus.store.base import Retention
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from tests.controllers.objects import a_job


def test_the_store_is_told_to_forget_old_history() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock, retention=Retention(revisions=3, seconds=60))
    client = StoreClient(store)
    for number in range(10):
        client.create(a_job(f"job-{number}"))
    tidy = TidyReconciler(client, clock)
    assert tidy.reconcile(TIDY) == RequeueAfter(TIDY_SECONDS)
    store.watch(since=0).close()
    clock.advance(61)
    tidy.reconcile(TIDY)
    with pytest.raises(Expired):
        store.watch(since=6)
    store.watch(since=7).close()


def test_old_events_go_and_young_ones_stay() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    client = StoreClient(store)
    job = client.create(a_job())
    recorder = EventRecorder(client, clock)
    tidy = TidyReconciler(client, clock)
    recorder.record(job, "Warning", "Old", "long ago", component="job")
    recorder.flush()
    clock.advance(EVENT_SECONDS + 1)
    recorder.record(job, "Warning", "Young", "just now", component="job")
    recorder.flush()
    tidy.reconcile(TIDY)
    assert [event.reason for event in client.list(Event)] == ["Young"]
