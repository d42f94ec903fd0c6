"""Iterators in threads of their own: what they give arrives in order, and their end is seen on both sides."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from cumulus.errors import NoLog, StoreUnavailable, TooManyRequests
from cumulus.server.stream_threads import BUFFER, StreamThreads
from tests.waiting import PATIENCE


class Endless:
    """Gives numbers, or nothing, until it is closed. `given` counts."""

    def __init__(self, *, silent: bool = False) -> None:
        self.given = 0
        self.closed = threading.Event()
        self._silent = silent

    def __call__(self) -> Iterator[int | None]:
        try:
            while True:
                self.given += 1
                yield None if self._silent else self.given
                time.sleep(0.001 if self._silent else 0)
        finally:
            self.closed.set()


def test_all_in_order_without_none() -> None:
    async def read() -> list[int]:
        given = iter([1, None, *range(2, 10 * BUFFER)])
        return [item async for item in StreamThreads().iterate(lambda: given)]

    assert asyncio.run(read()) == list(range(1, 10 * BUFFER))


def test_an_error_comes_after_what_came_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise NoLog("gone")

    async def read() -> None:
        items = StreamThreads().iterate(failing)
        assert await anext(items) == 1
        with pytest.raises(NoLog, match="gone"):
            await anext(items)

    asyncio.run(read())


def test_a_slow_reader_holds_the_iterator_up_and_closing_ends_it() -> None:
    source = Endless()

    async def read() -> None:
        async with aclosing(StreamThreads().iterate(source)) as items:
            assert await anext(items) == 1
            await asyncio.sleep(0.05)
            assert source.given <= 3 * BUFFER

    asyncio.run(read())
    assert source.closed.wait(PATIENCE)


def test_a_silent_iterator_ends_with_its_reader() -> None:
    source = Endless(silent=True)

    async def read() -> None:
        reading = asyncio.create_task(anext(StreamThreads().iterate(source)))
        while not source.given:
            await asyncio.sleep(0.001)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(read())
    assert source.closed.wait(PATIENCE)


def test_no_more_than_so_many_at_once() -> None:
    threads, source = StreamThreads(limit=1), Endless()

    async def read() -> None:
        async with aclosing(threads.iterate(source)) as first:
            await anext(first)
            with pytest.raises(TooManyRequests):
                await anext(threads.iterate(lambda: iter([1])))
        assert await asyncio.to_thread(source.closed.wait, 10)
        while True:
            try:
                assert await anext(threads.iterate(lambda: iter([1]))) == 1
                return
            except TooManyRequests:
                await asyncio.sleep(0.001)

    asyncio.run(read())


def test_closing_ends_all_and_starts_no_more() -> None:
    threads, source = StreamThreads(), Endless(silent=True)

    async def read() -> list[int]:
        asyncio.get_running_loop().call_later(0.01, lambda: threading.Thread(target=threads.close).start())
        seen = [item async for item in threads.iterate(source)]
        with pytest.raises(StoreUnavailable):
            await anext(threads.iterate(source))
        return seen

    assert asyncio.run(read()) == []
    assert source.closed.wait(PATIENCE)
