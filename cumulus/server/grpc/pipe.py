"""What comes in the event loop, for a thread that takes it as an iterator."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from typing import Generic, TypeVar

from cumulus.errors import CumulusError

T = TypeVar("T")
_WAITING = 4
"""Items that wait for the thread before the client waits too."""


class BrokenOff(CumulusError):
    """The client went away before it had sent all."""


class Pipe(Generic[T]):
    """`put` and `end` are for the event loop that made it, and iterating for one thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(_WAITING)
        self._items: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._ended = self._whole = False

    async def put(self, item: T) -> None:
        """Waits while the thread is behind."""
        self._items.put(item)
        await self._room.acquire()

    def end(self, *, whole: bool) -> None:
        """Nothing more comes. `whole`: the client sent all that it wanted to. The first call counts."""
        if not self._ended:
            self._ended, self._whole = True, whole
            self._items.put(None)
            # Whoever waits in `put` has nothing to wait for.
            self._room.release()

    def __iter__(self) -> Iterator[T]:
        """Raises BrokenOff where the client went away."""
        while (item := self._items.get()) is not None:
            yield item
            self._loop.call_soon_threadsafe(self._room.release)
        if not self._whole:
            raise BrokenOff("the client went away")
