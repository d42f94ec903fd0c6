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
"""Transactions committed at once at most."""


@dataclass(slots=True, eq=False)
class Job:
    """One transaction on its way. `commit` fills in `answers` or `error`."""

    writes: Sequence[Write]
    fence: Fence | None
    answers: list[bytes] | None = None
    error: BaseException | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)
    finished: bool = False
    leads: bool = False


class GroupCommit:
    """`commit` is called by one thread at a time and must leave `answers` or `error` in every job it is given;
    what it raises becomes the error of all."""

    def __init__(self, commit: Callable[[list[Job]], None]) -> None:
        self._commit = commit
        self._mutex = threading.Lock()
        self._waiting: list[Job] = []
        self._busy = False
        self._last = 1

    def run(self, writes: Sequence[Write], fence: Fence | None) -> list[bytes]:
        """Commit one transaction; returns its answers or raises its error."""
        job = Job(writes, fence)
        job.turn.acquire()
        with self._mutex:
            self._waiting.append(job)
            if not self._busy:
                self._busy = job.leads = True
        if not job.leads:
            self._await_turn(job)
        if not job.finished:
            self._lead(job)
        if job.error is not None:
            raise job.error
        assert job.answers is not None
        return job.answers

    def _await_turn(self, job: Job) -> None:
        try:
            job.turn.acquire()
        except BaseException:
            self._withdraw(job)
            raise

    def _withdraw(self, job: Job) -> None:
        """An interrupted writer must not stay in the queue: it might be made leader, and nobody would lead."""
        with self._mutex:
            if job in self._waiting:
                self._waiting.remove(job)
            if job.leads and not job.finished:
                self._pass_on()

    def _lead(self, job: Job) -> None:
        batch = [job]
        try:
            self._gather()
            with self._mutex:
                batch = self._waiting[:BATCH]
                del self._waiting[:BATCH]
                self._last = len(batch)
            self._commit(batch)
        except Exception as error:
            for each in batch:
                each.error = error
        except BaseException:
            for each in batch:
                each.error = StoreUnavailable(
                    "the writing was interrupted, and may or may not be stored", hint="read again to see"
                )
            raise
        finally:
            self._finish(job, batch)

    def _finish(self, job: Job, batch: list[Job]) -> None:
        for each in batch:
            each.finished = True
            if each is not job:
                each.turn.release()
        with self._mutex:
            if job in self._waiting:
                self._waiting.remove(job)
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
