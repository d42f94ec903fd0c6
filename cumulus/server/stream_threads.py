"""Iterators that block, each in a thread of its own, for asyncio: a followed log, a drain, an image on its way.

    iterator in its thread --> a bounded queue --> the event loop --> async for

Nothing can interrupt a thread that waits inside an iterator. So an iterator that may be silent for long gives None
(or what its caller maps to None) every second or so: nothing to hand on, but a moment to stop at.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, Generic, TypeVar

from cumulus.errors import StoreUnavailable, TooManyRequests

T = TypeVar("T")
LIMIT = 256
"""Threads at once. Each costs some tens of kilobytes, and what its iterator holds open."""
BUFFER = 64
"""Items that wait for a slow reader before the iterator waits too."""
END_SECONDS = 2.0
"""How long `close` waits for threads. They are daemons: one that is silent for longer keeps nobody alive."""


class StreamThreads:
    """Those of one app. Safe for several event loops."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._running: dict[threading.Thread, _Stream[Any]] = {}
        self._closed = False

    async def iterate(self, factory: Callable[[], Iterator[T | None]]) -> AsyncGenerator[T]:
        """What the iterator that `factory` makes gives, but None. Both run in a thread that starts with the first
        item asked for, and raise here what they raise.

        Close it (`contextlib.aclosing`), or cancel the task that reads it: the iterator is closed in its thread then,
        at its next item. Raises TooManyRequests, StoreUnavailable once the app closes.
        """
        stream = _Stream(asyncio.get_running_loop(), factory)
        thread = threading.Thread(target=self._run, args=(stream,), name="stream", daemon=True)
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the daemon is ending")
            if len(self._running) >= self._limit:
                raise TooManyRequests("too many streams are open", hint="end one, or try again later")
            self._running[thread] = stream
        thread.start()
        try:
            while True:
                for item in await stream.take():
                    yield item
        except _End:
            return
        finally:
            stream.close()

    def close(self) -> None:
        """End every stream: its reader sees the end."""
        with self._lock:
            self._closed = True
            running = dict(self._running)
        for stream in running.values():
            stream.close()
        for thread in running:
            thread.join(END_SECONDS / len(running))

    def _run(self, stream: _Stream[T]) -> None:
        try:
            stream.run()
        finally:
            with self._lock:
                del self._running[threading.current_thread()]


class _End(Exception):
    """Nothing more comes."""


class _Stream(Generic[T]):
    """`run` is for the thread, `take` for the loop, `close` for both."""

    def __init__(self, loop: asyncio.AbstractEventLoop, factory: Callable[[], Iterator[T | None]]) -> None:
        self._loop = loop
        self._factory = factory
        self._room = threading.Semaphore(BUFFER)
        self._items: deque[T] = deque()
        self._error: BaseException | None = None
        self._come = asyncio.Event()
        self._closed = False

    def run(self) -> None:
        try:
            self._copy()
            error: BaseException = _End()
        except BaseException as raised:
            error = raised
        self._post(lambda: self._end(error))

    async def take(self) -> list[T]:
        """What has come, at least one. Raises _End, and what the iterator raised."""
        await self._come.wait()
        if not self._items:
            assert self._error is not None
            raise self._error
        taken = list(self._items)
        self._items.clear()
        if self._error is None:
            self._come.clear()
        self._room.release(len(taken))
        return taken

    def close(self) -> None:
        self._closed = True
        self._room.release()
        self._post(lambda: self._end(_End()))

    def _copy(self) -> None:
        items = self._factory()
        try:
            for item in items:
                if item is not None:
                    self._room.acquire()
                    if not self._closed:
                        self._post(lambda item=item: self._add(item))  # type: ignore[misc]
                if self._closed:
                    return
        finally:
            if (close := getattr(items, "close", None)) is not None:
                close()

    def _add(self, item: T) -> None:
        self._items.append(item)
        self._come.set()

    def _end(self, error: BaseException) -> None:
        self._error = self._error or error
        self._come.set()

    def _post(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed, and the reader with it.
            self._loop.call_soon_threadsafe(call)
