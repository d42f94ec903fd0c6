"""Brings checkpoints to nodes before anything is leased there, so that no lease waits for a download.

A thread for each, few of which work at a time. One is given up when its job is to start elsewhere, or saved something
newer meanwhile. What comes is verified where it arrives. The start asks for the newest all the same, and finds it.

What a start brings itself is known here too: nothing may arrive once all that a job left was deleted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial

import structlog

from cumulus.backends.base import Prefetched
from cumulus.errors import BackendError

log = structlog.get_logger("cumulus.backends")

MOST = 2
"""That are on their way at a time: what jobs that run do with disks and networks comes first."""
_LOOK = 1.0
"""Seconds between looks at whether one that waits for its turn was given up."""

Work = Callable[[threading.Event], int | None]
"""Brings one, and tells its step; None where there is nothing to bring. Raises `PrefetchGivenUp` soon after the event
was set, `BackendError`, OSError."""


class PrefetchGivenUp(Exception):
    """Nobody wants it any more."""


@dataclass(eq=False)
class _One:
    job_uid: str
    node: str
    wanted: str = ""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set where it is given up."""
    over: threading.Event = field(default_factory=threading.Event)
    works: bool = False
    told: Prefetched | None = None


class Prefetching:
    """By the job's uid and the replica. Safe for use by several threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._known: dict[tuple[str, int], _One] = {}
        self._under_way: set[_One] = set()
        """All that are not over, also those that nobody wants any more, and those of starts."""
        self._turns = threading.BoundedSemaphore(MOST)

    def ask(
        self, job_uid: str, replica: int, node: str, wanted: str, work: Work, ended: Callable[[], None]
    ) -> Prefetched:
        """How far it is; it is begun where it was not. `wanted`: what of the job is to come; one of something else, or
        for another node, is given up. `ended` is told when it is over."""
        with self._mutex:
            known = self._known.get((job_uid, replica))
            if known is not None and (known.node, known.wanted) == (node, wanted):
                return known.told or Prefetched(node)
            if known is not None:
                known.gone.set()
            one = self._known[job_uid, replica] = _One(job_uid, node, wanted)
            self._under_way.add(one)
        # With the context of who asks: what is logged there says of which reconcile it is.
        run = partial(copy_context().run, self._do, one, work, ended)
        threading.Thread(target=run, name=f"prefetch-{node}"[:40], daemon=True).start()
        return Prefetched(node)

    @contextmanager
    def started(self, job_uid: str, replica: int, node: str) -> Iterator[threading.Event]:
        """For who starts the replica and brings its checkpoint. One that works for that node is waited for, any other
        is given up. The event is set where the job goes meanwhile: raise `PrefetchGivenUp` then."""
        with self._mutex:
            known = self._known.pop((job_uid, replica), None)
            if known is not None and (known.node != node or not known.works):
                known.gone.set()
            one = _One(job_uid, node)
            self._under_way.add(one)
        try:
            if known is not None and not known.gone.is_set():
                known.over.wait()
            if one.gone.is_set():
                raise PrefetchGivenUp
            yield one.gone
        finally:
            self._ended(one)

    def forget(self, job_uid: str) -> None:
        """Give up what comes ahead for the job."""
        with self._mutex:
            for key in [key for key in self._known if key[0] == job_uid]:
                self._known.pop(key).gone.set()

    def end(self, job_uid: str, patience: float) -> bool:
        """Give up all that is on its way for the job, also for a start. Whether nothing is any more: it is waited for
        that long."""
        self.forget(job_uid)
        with self._mutex:
            mine = [one for one in self._under_way if one.job_uid == job_uid]
            for one in mine:
                one.gone.set()
        return all(one.over.wait(patience) for one in mine)

    def close(self) -> None:
        with self._mutex:
            for one in self._under_way:
                one.gone.set()

    def _do(self, one: _One, work: Work, ended: Callable[[], None]) -> None:
        try:
            while not self._turns.acquire(timeout=_LOOK):
                if one.gone.is_set():
                    return
            try:
                with self._mutex:
                    one.works = not one.gone.is_set()
                if one.works:
                    one.told = Prefetched(one.node, work(one.gone), done=True)
            finally:
                self._turns.release()
        except PrefetchGivenUp:
            pass
        except (BackendError, OSError) as error:
            log.warning("a checkpoint was not brought ahead", node=one.node, problem=str(error))
            one.told = Prefetched(one.node, done=True, problem=str(error))
        finally:
            self._ended(one)
            if not one.gone.is_set():
                ended()

    def _ended(self, one: _One) -> None:
        with self._mutex:
            self._under_way.discard(one)
        one.over.set()
