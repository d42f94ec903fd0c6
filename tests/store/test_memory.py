"""What the store in memory keeps: the conformance suite cannot see whether it forgets."""

from __future__ import annotations

from cumulus.clock import FakeClock
from cumulus.resources.key import Key
from cumulus.store.base import Retention
from cumulus.store.memory import MemoryStore
from tests.store.conftest import thing


def kept(store: MemoryStore) -> list[int]:
    """Revisions that are in memory."""
    assert store._times.keys() == store._log.keys()
    return sorted(store._log)


def test_compaction_forgets_what_was_replaced_and_deleted() -> None:
    store = MemoryStore()
    store.create(thing("a"))
    store.create(thing("b"))
    store.update(thing("a", spec={"n": 1}))
    store.delete(Key("Thing", "default", "b"))
    store.update(thing("a", spec={"n": 2}))
    assert kept(store) == [1, 2, 3, 4, 5]
    store.compact(3)
    assert kept(store) == [2, 3, 4, 5], "1 was replaced by 3; 2 is what 4 deletes, after the compaction's revision"
    store.compact(5)
    assert kept(store) == [5], "only what is there now"
    assert store.get(Key("Thing", "default", "a"))["spec"] == {"n": 2}


def test_retention_bounds_what_is_kept() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock, retention=Retention(revisions=5, seconds=60))
    store.create(thing("a"))
    for n in range(100):
        store.update(thing("a", spec={"n": n}))
        clock.advance(61)
        store.retain()
    assert len(kept(store)) <= 7
