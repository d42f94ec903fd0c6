"""Hands objects that requests ask for at the same time to the service in one call.

A call in a thread of its own for each, and a wait for a commit in each, costs more than to admit an object: the threads
and the event loop take turns at one interpreter.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cumulus.resources.key import Document
    from cumulus.service.objects import Creation

MOST = 32
"""Objects that are made in one call: who asks for one waits until all are."""

_Outcomes = Sequence["Document | BaseException"]
_Waiting = list[tuple["Creation", "asyncio.Future[Document]"]]


class Creations:
    """One for all event loops of a server. `create_each`: see `Objects`; it is called in a thread of `threads`."""

    def __init__(self, create_each: Callable[[Sequence[Creation]], _Outcomes], threads: Executor) -> None:
        self._create_each = create_each
        self._threads = threads
        self._waiting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting] = weakref.WeakKeyDictionary()

    async def create(self, asked: Creation, *, alone: bool = False) -> Document:
        """The object as stored. Raises what `Objects.create` does. `alone`: no other is to wait for it."""
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Document] = loop.create_future()
        if alone:
            self._submit(loop, [(asked, made)])
        elif (waiting := self._waiting.get(loop)) is not None:
            waiting.append((asked, made))
        else:
            self._waiting[loop] = [(asked, made)]
            # Once all requests that are ready now have asked.
            loop.call_soon(self._hand_over, loop)
        return await made

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        # Whose client has gone meanwhile is not asked for any more.
        waiting = [each for each in self._waiting.pop(loop) if not each[1].done()]
        for start in range(0, len(waiting), MOST):
            self._submit(loop, waiting[start : start + MOST])

    def _submit(self, loop: asyncio.AbstractEventLoop, part: _Waiting) -> None:
        try:
            self._threads.submit(self._make, loop, part)
        except RuntimeError as error:
            # The server ends.
            _tell(part, [error] * len(part))

    def _make(self, loop: asyncio.AbstractEventLoop, part: _Waiting) -> None:
        try:
            outcomes = self._create_each([asked for asked, _ in part])
        except BaseException as error:
            outcomes = [error] * len(part)
        # A loop that is closed has nobody who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_tell, part, outcomes)


def _tell(part: _Waiting, outcomes: _Outcomes) -> None:
    for (_, made), outcome in zip(part, outcomes, strict=True):
        if made.done():
            continue
        if isinstance(outcome, BaseException):
            made.set_exception(outcome)
        else:
            made.set_result(outcome)
