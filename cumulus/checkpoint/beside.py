"""One thing after another, in a thread beside the one that asks for it."""

from __future__ import annotations

import collections
import threading
from typing import Callable, Generic, TypeVar

T = TypeVar("T")


class Beside(Generic[T]):
    """Does `action` with each that it is given; in this thread where no other can be had any more."""

    def __init__(self, action: Callable[[T], object]) -> None:
        self._action = action
        self._tasks: collections.deque[T | None] = collections.deque()
        self._changed = threading.Condition()
        self._left = 0
        self._error: Exception | None = None
        self._thread: threading.Thread | None = threading.Thread(target=self._work, name="checkpoint", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # The interpreter ends, or there are too many threads.
            self._thread = None

    @property
    def idle(self) -> bool:
        return self._left == 0

    def do(self, task: T) -> None:
        if self._thread is None:
            self._action(task)
            return
        with self._changed:
            self._tasks.append(task)
            self._left += 1
            self._changed.notify_all()

    def wait(self, but: int = 0) -> None:
        """Until all is done, but so many. Raises the first that an action raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._left <= but)
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def end(self) -> None:
        """Do what is left, and take no more."""
        if self._thread is not None:
            with self._changed:
                self._tasks.append(None)
                self._changed.notify_all()
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._tasks))
                task = self._tasks.popleft()
            if task is None:
                return
            try:
                self._action(task)
            except Exception as error:
                self._error = self._error or error
            del task  # It holds the caller's memory.
            with self._changed:
                self._left -= 1
                self._changed.notify_all()
