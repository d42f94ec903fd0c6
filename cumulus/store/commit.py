"""Group commit: threads that write at the same time share one transaction and its one fsync.

The first writer leads: it takes all that wait and commits them together; those that come meanwhile wait, and
one of them leads next. A writer alone commits at once, in its own thread. Everyone returns only after the
commit did.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cumulus.errors import StoreUnavailable
from cumulus.store.base import Fence, Write

BATCH = 128
"""Transactions committed at once at most, unless one thread brings more."""


@dataclass(slots=True, eq=False)
class Job:
    """One transaction on its way. `commit` fills in `answers` or `error`."""

    writes: Sequence[Write]
    fence: Fence | None
    answers: list[bytes] | None = None
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class Writer:
    """A thread, until its transactions are committed."""

    jobs: Sequence[Job]
    turn: threading.Lock = field(default_factory=threading.Lock)
    finished: bool = False
    leads: bool = False


class GroupCommit:
    """`commit` is called by one thread at a time and must leave `answers` or `error` in every job it is given;
    what it raises becomes the error of all."""

    def __init__(self, commit: Callable[[list[Job]], None]) -> None:
        self._commit = commit
        self._mutex = threading.Lock()
        self._waiting: list[Writer] = []
        self._busy = False
        self._last = 1

    def run(self, writes: Sequence[Write], fence: Fence | None) -> list[bytes]:
        """Commit one transaction; returns its answers or raises its error."""
        (job,) = self.run_each([writes], fence)
        if job.error is not None:
            raise job.error
        assert job.answers is not None
        return job.answers

    def run_each(self, transactions: Sequence[Sequence[Write]], fence: Fence | None) -> Sequence[Job]:
        """Commit several transactions together, each of which has its own answers or its own error."""
        writer = Writer([Job(writes, fence) for writes in transactions])
        writer.turn.acquire()
        with self._mutex:
            self._waiting.append(writer)
            if not self._busy:
                self._busy = writer.leads = True
        if not writer.leads:
            self._await_turn(writer)
        if not writer.finished:
            self._lead(writer)
        return writer.jobs

    def _await_turn(self, writer: Writer) -> None:
        try:
            writer.turn.acquire()
        except BaseException:
            self._withdraw(writer)
            raise

    def _withdraw(self, writer: Writer) -> None:
        """An interrupted writer must not stay in the queue: it might be made leader, and nobody would lead."""
        with self._mutex:
            if writer in self._waiting:
                self._waiting.remove(writer)
            if writer.leads and not writer.finished:
                self._pass_on()

    def _lead(self, writer: Writer) -> None:
        batch = [writer]
        try:
            self._gather()
            with self._mutex:
                batch = self._take()
                self._last = len(batch)
            self._commit(_jobs(batch))
        except Exception as error:
            for job in _jobs(batch):
                job.error = error
        except BaseException:
            for job in _jobs(batch):
                job.error = StoreUnavailable(
                    "the writing was interrupted, and may or may not be stored", hint="read again to see"
                )
            raise
        finally:
            self._finish(writer, batch)

    def _take(self) -> list[Writer]:
        """The first that wait, with BATCH transactions at most; one at least."""
        count = size = 0
        for each in self._waiting:
            size += len(each.jobs)
            if count and size > BATCH:
                break
            count += 1
        taken = self._waiting[:count]
        del self._waiting[:count]
        return taken

    def _finish(self, writer: Writer, batch: list[Writer]) -> None:
        for each in batch:
            each.finished = True
            if each is not writer:
                each.turn.release()
        with self._mutex:
            if writer in self._waiting:
                self._waiting.remove(writer)
            self._pass_on()

    def _gather(self) -> None:
        """Those whom the last commit released are about to come back: let them run while each turn brings more,
        else every other commit would be the leader's alone."""
        before = 0
        while before < len(self._waiting) < self._last:
            before = len(self._waiting)
            time.sleep(0)

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting[0].leads = True
            self._waiting[0].turn.release()
        else:
            self._busy = False


def _jobs(batch: list[Writer]) -> list[Job]:
    return [job for writer in batch for job in writer.jobs]
