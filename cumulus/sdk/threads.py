"""Waiting in threads: for asyncio, and for two things at once. No pool: who waits for long must not keep others out."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Cancellable(Protocol):
    def cancel(self) -> object: ...


class Background:
    """Threads that end with what they wait for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[Cancellable] = []
        self._over = False

    def start(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name="cumulus-sdk", daemon=True).start()

    def ends_with(self, request: Cancellable) -> None:
        """This request is cancelled at the end; at once where that has come."""
        with self._lock:
            over = self._over
            self._open = [*self._open[-8:], request]
        if over:
            request.cancel()

    def end(self) -> None:
        with self._lock:
            self._over, ended = True, self._open
        for each in ended:
            each.cancel()


@contextlib.contextmanager
def in_background() -> Iterator[Background]:
    """What is started in the block is ended with it."""
    made = Background()
    try:
        yield made
    finally:
        made.end()


async def awaited(work: Callable[[Callable[[Any], None]], T]) -> T:
    """What `work` returns, done in a thread of its own. It gets a function to tell of each request that is to be
    cancelled when the task is."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if isinstance(error, StopIteration):
            # A future can't hold it.
            error = RuntimeError(f"the call raised StopIteration: {error}")
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value: T | None = None
        failure: BaseException | None = None
        try:
            value = context.run(work, background.ends_with)
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):
            # The loop may be closed meanwhile.
            loop.call_soon_threadsafe(settle, value, failure)

    with in_background() as background:
        background.start(run)
        return await done
