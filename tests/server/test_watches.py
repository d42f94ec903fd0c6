"""The bridge from store watches to asyncio: order, slowness, cancellation, several loops, and ends."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cumulus.clock import FakeClock
from cumulus.errors import Expired, StoreUnavailable
from cumulus.resources.key import Document
from cumulus.server import watches
from cumulus.server.watches import TaskWatch, WatchBridge
from cumulus.store.base import Retention, Store, WatchEvent
from cumulus.store.memory import MemoryStore
from cumulus.store.sqlite import SqliteStore
from tests.waiting import PATIENCE


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    retention = Retention(revisions=1, seconds=0)
    opened: Store
    if request.param == "memory":
        opened = MemoryStore(FakeClock(), retention)
    else:
        opened = SqliteStore(tmp_path / "store", FakeClock(), retention)
    yield opened
    opened.close()


@pytest.fixture
def bridge(store: Store) -> Iterator[WatchBridge]:
    made = WatchBridge(store, buffer=50)
    yield made
    made.close()


def job(number: int, namespace: str = "default") -> Document:
    return {
        "apiVersion": "cumulus.dev/v1alpha1", "kind": "GPUJob",
        "metadata": {"name": f"j{number}", "namespace": namespace}, "spec": {},
    }  # fmt: skip


def other(number: int) -> Document:
    return {**job(number), "kind": "GPUPartition"}


def create(store: Store, count: int, make: Callable[[int], Document] = job, start: int = 0) -> None:
    for number in range(start, start + count):
        store.create(make(number))


async def take(watcher: TaskWatch, count: int) -> list[WatchEvent]:
    """Exactly that many, or the test fails."""
    found: list[WatchEvent] = []
    while len(found) < count:
        events = await watcher.next(timeout=PATIENCE)
        assert events, f"{len(found)} of {count}"
        found += events
    assert len(found) == count
    return found


def revisions(events: Sequence[WatchEvent]) -> list[int]:
    return [event.revision for event in events]


async def live(watcher: TaskWatch) -> None:
    """It has caught up, and waits."""
    assert await watcher.next(timeout=0.05) == []


def test_what_is_there_and_what_comes(bridge: WatchBridge, store: Store) -> None:
    async def body() -> None:
        create(store, 120)
        async with bridge.watch(since=20) as watcher:
            assert revisions(await take(watcher, 100)) == list(range(21, 121))
            await live(watcher)
            writing = asyncio.to_thread(create, store, 300, job, 1000)
            events, _ = await asyncio.gather(take(watcher, 300), writing)
            assert revisions(events) == list(range(121, 421))
            assert watcher.revision == 420

    asyncio.run(body())


def test_kind_and_namespace_and_a_revision_that_grows_without_events(bridge: WatchBridge, store: Store) -> None:
    async def body() -> None:
        async with (
            bridge.watch(since=0, kind="GPUJob") as jobs,
            bridge.watch(since=0, kind="GPUJob", namespace="a") as there,
            bridge.watch(since=0, namespace="a") as all_there,
            bridge.watch(since=0, kind="Queue") as nothing,
        ):
            for round in range(2):
                await asyncio.to_thread(create, store, 3, other, 10 * round)
                await asyncio.to_thread(create, store, 2, job, 10 * round)
                await asyncio.to_thread(create, store, 1, lambda n: job(n, "a"), 10 * round)
                assert [event.key.kind for event in await take(jobs, 3)] == ["GPUJob"] * 3
                assert [event.key.namespace for event in await take(there, 1)] == ["a"]
                await take(all_there, 1)
                await live(nothing)
                assert nothing.revision == store.revision()

    asyncio.run(body())


def test_5000_watchers_and_one_that_takes_nothing(bridge: WatchBridge, store: Store) -> None:
    async def body() -> None:
        threads = threading.active_count()
        slow = bridge.watch(since=0)
        await live(slow)
        others = [bridge.watch(since=0) for _ in range(5000)]
        await asyncio.gather(*(live(watcher) for watcher in others))
        # The feeder, the readers, and what a store has of its own.
        assert threading.active_count() - threads <= 1 + watches.READERS + 2
        reading = [asyncio.create_task(take(watcher, 60)) for watcher in others]
        for number in range(6):
            await asyncio.to_thread(create, store, 10, job, 10 * number)
        for events in await asyncio.gather(*reading):
            assert revisions(events) == list(range(1, 61))
        # It holds none of what it did not take, and still gets each once.
        assert [held for held in gc.get_referents(slow) if isinstance(held, list) and held] == []
        assert revisions(await take(slow, 60)) == list(range(1, 61))
        for watcher in (slow, *others):
            watcher.close()

    asyncio.run(body())


def test_a_slow_watcher_whose_history_is_gone_is_told(bridge: WatchBridge, store: Store) -> None:
    async def body() -> None:
        async with bridge.watch(since=0) as slow, bridge.watch(since=0) as quick:
            await live(slow)
            reading = asyncio.create_task(take(quick, 100))
            await asyncio.to_thread(create, store, 100)
            await reading
            store.compact(90)
            with pytest.raises(Expired):
                await slow.next(timeout=PATIENCE)
            async with bridge.watch(since=95) as resumed:
                assert revisions(await take(resumed, 5)) == list(range(96, 101))
            with pytest.raises(Expired):
                await bridge.watch(since=3).next(timeout=PATIENCE)

    asyncio.run(body())


def test_a_loop_that_stands_still_loses_nothing(
    bridge: WatchBridge, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "LOOP_BUFFER", 100)

    async def body() -> None:
        async with bridge.watch(since=0) as one, bridge.watch(since=0, kind="Queue") as nothing:
            await live(one)
            await live(nothing)
            create(store, 500)  # In the loop's own thread: none of its tasks runs meanwhile.
            assert revisions(await take(one, 500)) == list(range(1, 501))
            await live(nothing)
            assert nothing.revision == 500

    asyncio.run(body())


def test_two_event_loops(bridge: WatchBridge, store: Store) -> None:
    ready = threading.Barrier(3, timeout=PATIENCE)
    seen: dict[int, list[int]] = {}

    async def body(number: int) -> None:
        async with bridge.watch(since=0) as watcher:
            await live(watcher)
            ready.wait()
            seen[number] = revisions(await take(watcher, 200))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(body(n))) for n in range(2)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    ready.wait()
    create(store, 200)
    for thread in threads:
        thread.join(PATIENCE)
    assert seen == {0: list(range(1, 201)), 1: list(range(1, 201))}

    async def later() -> None:
        async with bridge.watch(since=150) as watcher:  # The two loops are closed.
            await take(watcher, 50)
            await live(watcher)
            await asyncio.to_thread(create, store, 1, job, 1000)
            await take(watcher, 1)

    asyncio.run(later())


def test_a_cancelled_watcher_is_closed_and_a_cancelled_wait_loses_nothing(bridge: WatchBridge, store: Store) -> None:
    async def body() -> None:
        opened: list[TaskWatch] = []

        async def follow() -> None:
            async with bridge.watch(since=0) as watcher:
                opened.append(watcher)
                await watcher.next()

        task = asyncio.create_task(follow())
        async with bridge.watch(since=0) as kept:
            await live(kept)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert opened[0].closed
            for number in range(50):
                waiting = asyncio.create_task(kept.next())
                await asyncio.sleep(0)
                await asyncio.to_thread(create, store, 1, job, number)
                waiting.cancel()
                got = (await asyncio.gather(waiting, return_exceptions=True))[0]
                expected = [number + 1]
                if isinstance(got, BaseException):
                    got = await take(kept, 1)
                assert revisions(got) == expected

    asyncio.run(body())


def test_ends(bridge: WatchBridge, store: Store) -> None:
    async def body() -> None:
        waiting = bridge.watch(since=0)
        behind = bridge.watch(since=0)
        closed = bridge.watch(since=0)
        await live(waiting)
        await live(closed)
        tasks = [asyncio.create_task(watcher.next()) for watcher in (waiting, closed)]
        await asyncio.sleep(0)
        closed.close()
        assert await tasks[1] == []
        await asyncio.to_thread(bridge.close)
        assert await tasks[0] == []
        assert await behind.next() == []
        assert waiting.closed
        with pytest.raises(StoreUnavailable):
            bridge.watch(since=0)

    asyncio.run(body())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("watch-")]


def test_a_store_that_closes_ends_the_watchers_with_its_error(bridge: WatchBridge, store: Store) -> None:
    async def body() -> None:
        watcher = bridge.watch(since=0)
        await live(watcher)
        task = asyncio.create_task(watcher.next())
        await asyncio.sleep(0)
        await asyncio.to_thread(store.close)
        with pytest.raises(StoreUnavailable):
            await task
        with pytest.raises(StoreUnavailable):
            await bridge.watch(since=0).next(timeout=PATIENCE)

    asyncio.run(body())
