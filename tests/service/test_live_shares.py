"""The shares that are kept in memory are those of the store, whatever happens while they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cumulus.clock import FakeClock
from cumulus.errors import StoreUnavailable
from cumulus.resources.key import Document
from cumulus.resources.query import Page, Query
from cumulus.service.live_shares import SharesNow
from cumulus.store.memory import MemoryStore
from tests.documents import NOW, ago, ahead, node, partition
from tests.waiting import eventually


def _held(name: str) -> Document:
    status = {
        "phase": "Active", "node": "gpu-1", "device": 0, "memoryBytes": 1, "activatedAt": ago(minutes=1),
        "expiresAt": ahead(hours=1),
    }  # fmt: skip
    return partition(name, status=status)


class Interrupted(MemoryStore):
    """`between`: what happens once, just before the objects of a kind are read."""

    def __init__(self) -> None:
        super().__init__()
        self.between: dict[str, Callable[[], object]] = {}

    def list(self, query: Query) -> Page:
        if (happens := self.between.pop(query.kind, None)) is not None:
            happens()
        return super().list(query)


@pytest.fixture
def store() -> Any:
    made = Interrupted()
    yield made
    made.close()


def _held_now(shares: SharesNow) -> int:
    return len(shares.now().leases)


def test_what_changes_while_other_kinds_are_read_is_seen(store: Interrupted) -> None:
    store.create(node("gpu-1"))
    store.between["Reservation"] = lambda: store.create(_held("comes"))
    shares = SharesNow(lambda: store, FakeClock(NOW))
    eventually(lambda: _held_now(shares) == 1, what="the lease that began meanwhile is told")


def test_a_store_that_fails_while_they_are_read_leaves_none_out(store: Interrupted) -> None:
    def fails() -> None:
        raise StoreUnavailable("it is busy")

    store.create(_held("is-there"))
    store.between["GPUPartition"] = fails
    shares = SharesNow(lambda: store, FakeClock(NOW))
    with pytest.raises(StoreUnavailable):
        shares.now()
    assert _held_now(shares) == 1


def test_who_falls_behind_begins_anew_and_leaves_no_watch(store: Interrupted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cumulus.store.watch.QUEUE_LIMIT", 3)
    opened: list[Any] = []
    watch = store.watch

    def watched(**given: Any) -> Any:
        opened.append(watch(**given))
        return opened[-1]

    monkeypatch.setattr(store, "watch", watched)
    shares = SharesNow(lambda: store, FakeClock(NOW))
    assert _held_now(shares) == 0
    for number in range(10):
        store.create(_held(f"one-{number}"))
    eventually(lambda: opened[0]._behind, what="it fell behind")
    store.compact(store.revision())
    assert _held_now(shares) == 10
    assert [each.closed for each in opened] == [True, False]
