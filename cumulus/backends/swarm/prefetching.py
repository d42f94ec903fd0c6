"""Brings checkpoints to nodes before anything is leased there, so that no lease waits for a download.

A thread for each, few of which work at a time. One is given up when its job is to start elsewhere, or saved something
newer meanwhile. What comes is verified where it arrives. The start asks for the newest all the same, and finds it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from cumulus.backends.base import Prefetched
from cumulus.errors import BackendError

log = structlog.get_logger("cumulus.backends")

MOST = 2
"""That are on their way at a time: what jobs that run do with disks and networks comes first."""
_LOOK = 1.0
"""Seconds between looks at whether one that waits for its turn was given up."""

Work = Callable[[threading.Event], int | None]
"""Brings one, and tells its step; None where there is nothing to bring. Raises `GivenUp` soon after the event was set,
`BackendError`."""


class GivenUp(Exception):
    """Nobody wants it any more."""


@dataclass
class _One:
    node: str
    wanted: str
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
            one = self._known[job_uid, replica] = _One(node, wanted)
        threading.Thread(target=self._do, args=(one, work, ended), name=f"prefetch-{node}"[:40], daemon=True).start()
        return Prefetched(node)

    def settle(self, job_uid: str, replica: int, node: str) -> None:
        """Wait for one that works for that node; any other is given up. For who starts the replica."""
        with self._mutex:
            known = self._known.pop((job_uid, replica), None)
            if known is None:
                return
            if known.node != node or not known.works:
                known.gone.set()
        if not known.gone.is_set():
            known.over.wait()

    def forget(self, job_uid: str) -> bool:
        """Give up what is on its way for the job. Whether nothing is any more."""
        with self._mutex:
            mine = [self._known.pop(key) for key in list(self._known) if key[0] == job_uid]
        for one in mine:
            one.gone.set()
        return all(one.over.is_set() for one in mine)

    def close(self) -> None:
        with self._mutex:
            for one in self._known.values():
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
        except GivenUp:
            pass
        except BackendError as error:
            log.warning("a checkpoint was not brought ahead", node=one.node, problem=str(error))
            one.told = Prefetched(one.node, done=True, problem=str(error))
        finally:
            one.over.set()
            if not one.gone.is_set():
                ended()
