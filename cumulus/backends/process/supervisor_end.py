"""Waits for the end of a run's supervisor: who follows a run learns of its end at once, and not at the next look."""

from __future__ import annotations

import contextlib
import os
import select
from types import TracebackType
from typing import Self

from cumulus.backends.process import layout
from cumulus.backends.process.run import Run
from cumulus.backends.rundir.documents import read_document
from cumulus.clock import Clock


class SupervisorEnd:
    """Of the supervisor that the run has now. Where it has none, or once it has ended, `wait` is a sleep."""

    def __init__(self, run: Run) -> None:
        self._poll = select.poll()
        self._descriptor = _handle(run)
        if self._descriptor >= 0:
            self._poll.register(self._descriptor, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def wait(self, seconds: float, clock: Clock) -> None:
        """For so long, or until the supervisor ends."""
        if self._descriptor < 0:
            clock.sleep(seconds)
        elif self._poll.poll(seconds * 1000):
            # Another one may come after it, to bury the run: that one is looked for now and then.
            self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            self._poll.unregister(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def _handle(run: Run) -> int:
    """A pidfd of the run's supervisor, -1 where there is none to be had. Where its number is another process's by now,
    that one's end is one more look for nothing."""
    # Not by the run's lock: to close a descriptor of that file would let go of it, where this process holds it.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        return os.pidfd_open((read_document(os.path.join(run.directory, layout.STARTED)) or {})["session"])
    return -1
