"""The bridge from store watches to asyncio against a bare fan-out of asyncio, and what an idle watcher costs."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import Iterator

from benchmarks.harness import Result, at_most, in_rounds
from benchmarks.store import document
from cumulus.server.watches import TaskWatch, WatchBridge
from cumulus.store.memory import MemoryStore

WATCHERS, EVENTS, ROUNDS = 1000, 40, 9
IDLE = 5000
IDLE_BYTES = 4096


def run() -> Iterator[Result]:
    yield in_rounds(
        f"an event to one of {WATCHERS:,} watchers in an event loop, processor time", *_events(), unit="µs",
        peer_name="an asyncio.Queue a watcher, all filled by the loop itself", at_most=1.5,
    )  # fmt: skip
    yield at_most(
        f"memory of an idle watcher that waits in a task, of {IDLE:,}", _idle(), IDLE_BYTES, 1, unit="bytes",
        peer_name="bound",
    )  # fmt: skip


def _events() -> tuple[list[float], list[float]]:
    ours, bare = [], []
    for _ in range(ROUNDS):
        ours.append(asyncio.run(_by_bridge()))
        bare.append(asyncio.run(_by_queues()))
    return ours, bare


async def _by_bridge() -> float:
    store = MemoryStore()
    bridge = WatchBridge(store)
    watchers = [bridge.watch(since=0) for _ in range(WATCHERS)]
    tasks = [asyncio.create_task(_take(watcher)) for watcher in watchers]
    await asyncio.sleep(0.2)
    # One by one, so that every event wakes every watcher; their creation counts for both sides.
    start = time.process_time()
    for number in range(EVENTS):
        store.create(document(f"job-{number}"))
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    spent = time.process_time() - start
    for watcher in watchers:
        watcher.close()
    await asyncio.to_thread(bridge.close)
    store.close()
    return spent / (WATCHERS * EVENTS) * 1e6


async def _take(watcher: TaskWatch) -> None:
    left = EVENTS
    while left:
        left -= len(await watcher.next())


async def _by_queues() -> float:
    store = MemoryStore()
    queues: list[asyncio.Queue[object]] = [asyncio.Queue() for _ in range(WATCHERS)]

    async def take(queue: asyncio.Queue[object]) -> None:
        for _ in range(EVENTS):
            await queue.get()

    tasks = [asyncio.create_task(take(queue)) for queue in queues]
    await asyncio.sleep(0.2)
    start = time.process_time()
    for number in range(EVENTS):
        made = store.create(document(f"job-{number}"))
        for queue in queues:
            queue.put_nowait(made)
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    spent = time.process_time() - start
    store.close()
    return spent / (WATCHERS * EVENTS) * 1e6


def _idle() -> float:
    async def measured() -> float:
        store = MemoryStore()
        bridge = WatchBridge(store)
        async with bridge.watch(since=0) as first:
            await first.next(timeout=0.1)
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            watchers = [bridge.watch(since=0) for _ in range(IDLE)]
            tasks = [asyncio.create_task(watcher.next()) for watcher in watchers]
            await asyncio.sleep(0.5)
            after, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            for watcher in watchers:
                watcher.close()
            await asyncio.gather(*tasks)
        await asyncio.to_thread(bridge.close)
        store.close()
        return (after - before) / IDLE

    return asyncio.run(measured())
