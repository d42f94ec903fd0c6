"""Iterators that block, for RPCs: a stream that the server's end cuts off does not look as if it were whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

from cumulus.errors import StoreUnavailable
from cumulus.server.api import Api

T = TypeVar("T")
_END = object()


async def to_the_end(api: Api, factory: Callable[[], Iterator[T | None]]) -> AsyncGenerator[T]:
    """See `StreamThreads.iterate`. Raises StoreUnavailable where the server ends before the iterator does."""

    def marked() -> Iterator[Any]:
        yield from factory()
        yield _END

    async with aclosing(api.streams.iterate(marked)) as items:
        async for item in items:
            if item is _END:
                return
            yield item
    raise StoreUnavailable("the server is ending")
