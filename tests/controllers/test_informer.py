"""The informer's cache is the store as it was at one revision, whatever happens to the watch."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from cumulus.clock import FakeClock
from cumulus.controllers.partition_watches import ACTIVE_ON_NODE, LIVE, ON_NODE
from cumulus.errors import InvalidObject
from cumulus.machinery.cache import StoreReader
from cumulus.machinery.informer import Change, Informer
from cumulus.resources.job import GPUJob
from cumulus.resources.meta import OwnerReference
from cumulus.resources.partition import GPUPartition, PartitionPhase
from cumulus.store.base import Key, Retention, Store
from cumulus.store.client import StoreClient
from cumulus.store.memory import MemoryStore
from tests.controllers.exact import ExactStore
from tests.controllers.objects import a_job, a_partition
from tests.waiting import PATIENCE

KINDS = ("GPUJob", "GPUPartition", "GPUNode")


@pytest.fixture
def store() -> Store:
    exact: Any = ExactStore(MemoryStore(clock=FakeClock(), retention=Retention(revisions=0, seconds=0)))
    return exact


@pytest.fixture
def client(store: Store) -> StoreClient:
    return StoreClient(store)


@pytest.fixture
def informer(store: Store) -> Informer:
    return Informer(store, KINDS, (LIVE, ON_NODE, ACTIVE_ON_NODE))


@pytest.fixture
def seen(informer: Informer) -> list[tuple[str, str]]:
    """What handlers were told."""
    told: list[tuple[str, str]] = []
    informer.add_handler(lambda change: told.append((change.type, change.key.name)))
    return told


def test_it_lists_then_watches(client: StoreClient, informer: Informer, seen: list[tuple[str, str]]) -> None:
    job = client.create(a_job("a"))
    assert not informer.synced
    informer.poll()
    assert informer.synced
    assert informer.cache.get(GPUJob, "default", "a") == job
    changed = client.update(job.replace(spec=job.spec.model_copy(update={"priority": 5})))
    client.create(a_job("b"))
    informer.poll()
    assert informer.cache.get(GPUJob, "default", "a") == changed
    client.delete(changed)
    informer.poll()
    assert informer.cache.get(GPUJob, "default", "a") is None
    assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a")]


def test_a_handler_is_told_what_was_and_what_is(client: StoreClient, informer: Informer) -> None:
    told: list[Change] = []
    informer.add_handler(told.append)
    job = client.create(a_job("a"))
    informer.poll()
    client.update(job.replace(spec=job.spec.model_copy(update={"priority": 5})))
    informer.poll()
    assert told[0].old is None
    assert (told[1].old or {})["spec"].get("priority", 0) == 0
    assert told[1].new["spec"]["priority"] == 5


def test_an_expired_watch_is_made_up_for_by_a_diff(
    store: Store, client: StoreClient, informer: Informer, seen: list[tuple[str, str]]
) -> None:
    for name in ("stays", "goes", "changes"):
        client.create(a_job(name))
    informer.poll()
    seen.clear()
    informer.close()
    client.delete(client.get(GPUJob, "default", "goes"))
    job = client.get(GPUJob, "default", "changes")
    client.update(job.replace(spec=job.spec.model_copy(update={"priority": 5})))
    client.create(a_job("new"))
    store.compact(store.revision())
    informer.poll()
    assert sorted(seen) == [("ADDED", "new"), ("DELETED", "goes"), ("MODIFIED", "changes")]


def test_a_watch_that_expires_while_it_is_read_is_listed_anew(
    store: Store, client: StoreClient, informer: Informer, seen: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    informer.poll()
    client.create(a_job("a"))
    client.delete(client.get(GPUJob, "default", "a"))
    client.create(a_job("b"))
    store.compact(store.revision())
    informer.poll()
    informer.poll()
    assert ("ADDED", "b") in seen
    assert informer.cache.keys("GPUJob") == [("default", "b")]


def test_old_news_changes_nothing(client: StoreClient, informer: Informer, seen: list[tuple[str, str]]) -> None:
    old = client.create(a_job("a"))
    client.update(old.replace(spec=old.spec.model_copy(update={"priority": 5})))
    informer.poll()
    seen.clear()
    informer.cache.put(old.to_json())
    informer.relist()
    found = informer.cache.get(GPUJob, "default", "a")
    assert found is not None
    assert found.spec.priority == 5
    assert seen == []


def test_the_view_reaches_a_revision_only_with_all_before_it(client: StoreClient, informer: Informer) -> None:
    informer.poll()
    job = client.create(a_job("a"))
    revision = int(job.metadata.resource_version or 0)
    assert not informer.cache.wait_for(revision, 0)
    waiter = threading.Thread(target=informer.cache.wait_for, args=(revision, 20))
    waiter.start()
    informer.poll()
    waiter.join(PATIENCE)
    assert not waiter.is_alive()
    assert informer.cache.revision == revision


def test_indexes_follow_the_objects(client: StoreClient, informer: Informer) -> None:
    owner = OwnerReference(api_version="cumulus.dev/v1alpha1", kind="GPUJob", name="a", uid="u1")
    mine = a_partition("mine")
    mine = client.create(mine.replace(metadata=mine.metadata.model_copy(update={"owner_references": (owner,)})))
    client.create(a_partition("other"))
    informer.poll()
    cache = informer.cache
    assert [p.metadata.name for p in cache.owned(GPUPartition, "u1")] == ["mine"]
    assert {key.name for key in cache.indexed(LIVE, "")} == {"mine", "other"}
    assert not cache.indexed(ON_NODE, "n1")
    bound = client.update_status(
        mine.replace(status=mine.status.model_copy(update={"node": "n1", "phase": PartitionPhase.BOUND}))
    )
    informer.poll()
    assert {key: entry.uid for key, entry in cache.indexed(ON_NODE, "n1").items()} == {bound.key: mine.uid}
    assert not cache.indexed(ACTIVE_ON_NODE, "n1")
    bound = client.update_status(bound.replace(status=bound.status.model_copy(update={"phase": PartitionPhase.ACTIVE})))
    informer.poll()
    assert list(cache.indexed(ON_NODE, "n1")) == list(cache.indexed(ACTIVE_ON_NODE, "n1")) == [bound.key]
    assert cache.indexed(LIVE, "")[bound.key].revision == int(bound.metadata.resource_version or 0)
    client.update_status(bound.replace(status=bound.status.model_copy(update={"phase": PartitionPhase.EXPIRED})))
    informer.poll()
    assert [key.name for key in cache.indexed(LIVE, "")] == ["other"]
    assert not cache.indexed(ON_NODE, "n1")
    ended = cache.by_uid(GPUPartition, mine.uid)
    assert ended is not None
    assert ended.status.phase is PartitionPhase.EXPIRED
    client.delete(client.get(GPUPartition, "default", "mine"))
    informer.poll()
    assert cache.owned(GPUPartition, "u1") == []
    assert cache.by_uid(GPUPartition, mine.uid) is None


def test_a_damaged_row_hides_no_other(store: Store, client: StoreClient, informer: Informer) -> None:
    client.create(a_job("good"))
    bad = a_job("bad").to_json()
    store.create({**bad, "spec": {"nonsense": 1}})
    informer.poll()
    assert [job.metadata.name for job in informer.cache.all(GPUJob)] == ["good"]
    with pytest.raises(InvalidObject, match="bad"):
        informer.cache.get(GPUJob, "default", "bad")


def test_many_pages_are_listed_at_one_revision(
    client: StoreClient, informer: Informer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cumulus.machinery.informer.PAGE", 3)
    for number in range(10):
        client.create(a_job(f"job-{number}"))
        client.create(a_partition(f"share-{number}"))
    informer.poll()
    assert len(informer.cache.keys("GPUJob")) == 10
    assert len(informer.cache.keys("GPUPartition")) == 10


@pytest.mark.parametrize("seed", range(20))
def test_the_cache_equals_the_store_after_any_history(store: Store, client: StoreClient, seed: int) -> None:
    rng = random.Random(seed)
    informer = Informer(store, KINDS)
    for _ in range(120):
        name = f"job-{rng.randrange(5)}"
        action = rng.choice(["make", "change", "delete", "poll", "relist", "drop", "compact"])
        key = Key("GPUJob", "default", name)
        job = StoreReader(store).get(GPUJob, "default", name)
        if action == "make" and job is None:
            client.create(a_job(name))
        elif action == "change" and job is not None:
            client.update(job.replace(spec=job.spec.model_copy(update={"priority": rng.randrange(100)})))
        elif action == "delete" and job is not None:
            store.delete(key)
        elif action == "poll":
            informer.poll()
        elif action == "relist":
            informer.relist()
        elif action == "drop":
            informer.close()
        elif action == "compact" and store.revision():
            store.compact(store.revision())
    while informer.poll():
        pass
    assert informer.cache.all(GPUJob) == StoreReader(store).all(GPUJob)
