"""What runs wait for before they start, each in a thread of its own: a checkpoint that takes hours to come must hold
up no controller."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial

WAIT_SECONDS = 3.0
"""How long who starts a run waits for it: mostly there is little to do."""


class Preparing:
    """The names of runs that are being prepared. Safe for use by several threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._names: set[str] = set()
        self._closed = False

    def __contains__(self, name: str) -> bool:
        with self._mutex:
            return name in self._names

    def run(
        self, name: str, work: Callable[[], None], failed: Callable[[Exception], None], ended: Callable[[], None]
    ) -> None:
        """Do the work, or go on while it is being done. What it raises while this waits is raised; `failed` is told of
        what it raises later, and then `ended`. Nothing is done where the run is being prepared already."""
        with self._mutex:
            if name in self._names or self._closed:
                return
            self._names.add(name)
        one = _Work(work)
        # With the context of who starts the run: what is logged there says of which reconcile it is.
        run = partial(copy_context().run, self._do, name, one, failed, ended)
        threading.Thread(target=run, name=f"prepare-{name}"[:40], daemon=True).start()
        one.done.wait(WAIT_SECONDS)
        with self._mutex:
            one.waited_for = False
            error = one.error
        if error is not None:
            raise error

    def close(self) -> None:
        """Begin nothing any more, and tell nobody."""
        with self._mutex:
            self._closed = True

    def _do(
        self, name: str, one: _Work, failed: Callable[[Exception], None], ended: Callable[[], None]
    ) -> None:  # fmt: skip
        try:
            one.work()
        except Exception as raised:
            one.error = raised
        with self._mutex:
            told = one.error is not None and not one.waited_for and not self._closed
        if told and one.error is not None:
            failed(one.error)
        with self._mutex:
            self._names.discard(name)
        one.done.set()
        if told:
            ended()


class _Work:
    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.done = threading.Event()
        self.waited_for = True
        self.error: Exception | None = None
