"""Watches of the store for asyncio: thousands of watchers on one feeder thread and a few readers of the log.

    store watch --> feeder thread --> each event loop, woken once a batch --> the buffers of its watchers --> next()
    store's log --> a few reader threads ----------------------------------> watchers that are behind ------> next()

A watcher is *live* while events come into its buffer. One that starts in the past, or takes its events so slowly that
its buffer is full, is *behind*: it holds no events, and reads the log page by page as it is asked for them, until it
has caught up. So a slow watcher costs bounded memory and keeps nobody waiting. Where what it has yet to read was
compacted, `next` raises `Expired`. Nothing is lost, repeated or reordered, since both ways go by revision.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from types import TracebackType
from typing import Self

from cumulus.errors import CumulusError, StoreUnavailable
from cumulus.store.base import Store, Watch, WatchEvent

BUFFER = 1000
"""Events that may wait for one watcher before it falls behind."""
READERS = 4
"""Threads that read the log for watchers that are behind."""
LOOP_BUFFER = 8000
"""Events that may wait for one event loop before all its watchers fall behind: four times what a store hands over."""
SLICE = 200
"""Events that an event loop hands to its watchers before it lets their tasks run."""

Scope = tuple[str | None, str | None]
"""Kind and namespace of what is watched; None: any."""


class WatchBridge:
    """All watches of one store. A watcher belongs to the event loop that asked for it; there may be several loops."""

    def __init__(self, store: Store, *, buffer: int = BUFFER, readers: int = READERS) -> None:
        self._store = store
        self._buffer = buffer
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="watch-reader")
        self._lock = threading.Lock()
        self._loops: dict[asyncio.AbstractEventLoop, _LoopFeed] = {}
        self._feeder: threading.Thread | None = None
        self._watch: Watch | None = None
        self._position: int | None = None
        """The revision up to which the loops have been offered events; None until the feeder knows."""
        self._closed = False

    def watch(self, *, since: int, kind: str | None = None, namespace: str | None = None) -> TaskWatch:
        """A watcher, for the running event loop, of what comes after revision `since`.

        Use it with `async with`, which closes it also when its task is cancelled. Raises `StoreUnavailable` after
        `close`.

        async with bridge.watch(since=page.revision, kind="GPUJob") as watcher:
            while events := await watcher.next(timeout=60):
                ...
        """
        running = asyncio.get_running_loop()
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the daemon is ending")
            feed = self._loops.get(running)
            if feed is None:
                self._loops = {loop: known for loop, known in self._loops.items() if not loop.is_closed()}
                feed = self._loops[running] = _LoopFeed(running)
                if self._position is not None:
                    feed.start(self._position)
                if self._feeder is None:
                    self._feeder = threading.Thread(target=self._feed, name="watch-feeder", daemon=True)
                    self._feeder.start()
        return TaskWatch(feed, (kind, namespace), since, self._buffer, self._page)

    def close(self) -> None:
        """End every watcher and thread: a waiting `next` returns nothing."""
        with self._lock:
            self._closed = True
            feeder, watch = self._feeder, self._watch
        if watch is not None:
            watch.close()
        if feeder is not None:
            feeder.join()
        self._readers.shutdown()

    def _feed(self) -> None:
        failure: CumulusError = StoreUnavailable("the watch of the store has ended")
        try:
            position = self._store.revision()
            watch = self._store.watch(since=position)
            with self._lock:
                self._watch, self._position = watch, position
                for feed in self._loops.values():
                    feed.post(lambda feed=feed: feed.start(position))  # type: ignore[misc]
            while not (self._closed or watch.closed):
                if events := watch.next():
                    with self._lock:
                        self._position = events[-1].revision
                        for feed in self._loops.values():
                            feed.offer(events)
        except CumulusError as error:
            failure = error
        finally:
            with self._lock:
                ended, self._loops = list(self._loops.values()), {}
                watch_, self._watch, self._position, self._feeder = self._watch, None, None, None
            if watch_ is not None:
                watch_.close()
            for feed in ended:
                feed.post(lambda feed=feed: feed.end(None if self._closed else failure))  # type: ignore[misc]

    async def _page(self, since: int, scope: Scope) -> Sequence[WatchEvent]:
        """The next events of the log, as many as the store reads at once; nothing where there is nothing newer."""
        kind, namespace = scope

        def read() -> Sequence[WatchEvent]:
            watch = self._store.watch(since=since, kinds=None if kind is None else frozenset((kind,)))
            try:
                return watch.next(0)
            finally:
                watch.close()

        while events := await self._in_reader(read):
            found = [event for event in events if namespace is None or event.key.namespace == namespace]
            if found:
                return found
            since = events[-1].revision
        return ()

    async def _in_reader(self, read: Callable[[], Sequence[WatchEvent]]) -> Sequence[WatchEvent]:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except RuntimeError:
            if self._closed:
                raise _Closing from None
            raise


class _Closing(Exception):
    """The bridge takes no more work."""


class _LoopFeed:
    """What one event loop is fed. `offer` and `post` are for the feeder's thread, all else for the loop's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.started = asyncio.Event()
        self.ended = False
        self.failure: CumulusError | None = None
        self.position = 0
        """The revision up to which the watchers have been fed."""
        self._loop = loop
        self._watchers: dict[Scope, set[TaskWatch]] = {}
        self._lock = threading.Lock()
        self._waiting: deque[WatchEvent] = deque()
        self._lost = 0
        """The revision up to which events were dropped, since the loop did not run for too long."""
        self._woken = False

    def start(self, position: int) -> None:
        self.position = position
        self.started.set()

    def end(self, failure: CumulusError | None) -> None:
        self.ended, self.failure = True, failure
        self.started.set()
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.wake()

    def post(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed, and its watchers with it.
            self._loop.call_soon_threadsafe(call)

    def offer(self, events: Sequence[WatchEvent]) -> None:
        with self._lock:
            if len(self._waiting) + len(events) > LOOP_BUFFER:
                self._waiting.clear()
                self._lost = events[-1].revision
            else:
                self._waiting += events
            woken, self._woken = self._woken, True
        if not woken:
            self.post(self._hand_out)

    def add(self, watcher: TaskWatch, scope: Scope) -> None:
        self._watchers.setdefault(scope, set()).add(watcher)

    def discard(self, watcher: TaskWatch, scope: Scope) -> None:
        watchers = self._watchers.get(scope, set())
        watchers.discard(watcher)
        if not watchers:
            self._watchers.pop(scope, None)

    def _hand_out(self) -> None:
        """One slice of what waits; the tasks of the watchers run before the next."""
        with self._lock:
            lost, self._lost = self._lost, 0
            events = list(islice(self._waiting, SLICE))
            for _ in events:
                self._waiting.popleft()
            self._woken = bool(self._waiting)
        if lost:
            for watcher in [each for watchers in self._watchers.values() for each in watchers]:
                watcher.fall_behind()
            self.position = lost
        for event in events:
            key = event.key
            for scope in ((key.kind, None), (key.kind, key.namespace), (None, None), (None, key.namespace)):
                watchers = self._watchers.get(scope)
                if watchers:
                    for full in [watcher for watcher in watchers if not watcher.take(event)]:
                        full.fall_behind()
            self.position = event.revision
        if self._woken:
            self._loop.call_soon(self._hand_out)


class TaskWatch:
    """A stream of events for one task. `revision`: what was taken from it so far; a watch from there goes on after."""

    def __init__(
        self,
        feed: _LoopFeed,
        scope: Scope,
        since: int,
        limit: int,
        page: Callable[[int, Scope], Awaitable[Sequence[WatchEvent]]],
    ) -> None:
        self._feed = feed
        self._scope = scope
        self._taken = self._after = since
        self._limit = limit
        self._page = page
        self._buffer: list[WatchEvent] = []
        self._live = False
        self._waiter: asyncio.Future[None] | None = None
        self.closed = False

    @property
    def revision(self) -> int:
        """It also grows without events for this watcher, as bookmarks tell it to clients."""
        if self._live and not self._buffer:
            return max(self._taken, self._feed.position)
        return self._taken

    async def next(self, timeout: float | None = None) -> Sequence[WatchEvent]:
        """The events since the last call, oldest first; waits up to `timeout` seconds (None: for ever).

        Nothing means that the time-out passed, or that the watcher or the bridge was closed (`closed` tells). Raises
        `Expired` where revisions that it had yet to deliver were compacted, and what the store raises.
        """
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        while not self.closed:
            if self._buffer:
                taken, self._buffer = self._buffer, []
                self._taken = taken[-1].revision
                return taken
            if self._feed.ended:
                self.close()
                if self._feed.failure is not None:
                    raise self._feed.failure
            elif self._live:
                if not await self._woken(deadline):
                    return []
            elif events := await self._behind():
                return events
        return []

    def close(self) -> None:
        """End the watch and wake a waiting `next`."""
        self.closed = True
        self.fall_behind()

    def take(self, event: WatchEvent) -> bool:
        """Buffer an event; False where the buffer is full."""
        if event.revision <= self._after:
            return True
        if len(self._buffer) >= self._limit:
            return False
        self._buffer.append(event)
        self.wake()
        return True

    def fall_behind(self) -> None:
        """Drop what was not taken: it is read from the log, should it still be asked for."""
        self._taken = self.revision
        self._feed.discard(self, self._scope)
        self._live = False
        self._buffer = []
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _behind(self) -> Sequence[WatchEvent]:
        """A page of the log; without one, this watcher is live from here on."""
        await self._feed.started.wait()
        fed = self._feed.position
        if self._taken != fed:
            try:
                events = await self._page(self._taken, self._scope)
            except _Closing:
                self.close()
                return ()
            if events:
                self._taken = events[-1].revision
                return events
            # All up to where the loop had been fed before the log was read is known now.
            self._taken = max(self._taken, fed)
        if self._taken >= self._feed.position and not self.closed:
            self._after = self._taken
            self._live = True
            self._feed.add(self, self._scope)
        return ()

    async def _woken(self, deadline: float | None) -> bool:
        """Whether something happened before the deadline."""
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        alarm = None if deadline is None else loop.call_at(deadline, self.wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if alarm is not None:
                alarm.cancel()
        return bool(self._buffer) or not self._live or self._feed.ended or deadline is None or loop.time() < deadline

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
