"""The queue of keys between what changed and the controller that looks at it.

Informers add keys; a `runner` takes one, reconciles it and says `done`. Semantics are client-go's: a key waits
in the queue at most once, a key that is added while it is being worked on is queued again afterwards, and no
two workers ever hold the same key. Time and chance are injected, so that a simulation can own both.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections import deque

from cumulus.clock import Clock
from cumulus.lib.backoff import Backoff
from cumulus.machinery.instruments import Instruments
from cumulus.machinery.reconcile import Request

BACKOFF = Backoff(first=0.005, longest=300.0, jitter=0.5)
"""Of a key that keeps failing."""


class WorkQueue:
    """Safe for use by several threads."""

    def __init__(
        self, name: str, clock: Clock, *, rng: random.Random | None = None, instruments: Instruments | None = None
    ) -> None:
        self.name = name
        self._instruments = instruments or Instruments()
        self._clock = clock
        self._rng = rng or random.Random()
        self._ready: deque[Request] = deque()
        self._waiting: dict[Request, float] = {}
        """Keys to look at, each with when it was added."""
        self._working: set[Request] = set()
        self._due: dict[Request, float] = {}
        self._heap: list[tuple[float, int, Request]] = []
        self._sequence = 0
        self._failures: dict[Request, int] = {}
        self._stopped = False
        # Two conditions of one lock: a key that comes wakes one worker, not all of them.
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._idle = threading.Condition(lock)
        self._timer: object = None
        """Stands for the one waiting worker that wakes when the first delayed key is due; None where there is none."""
        self._takers = 0
        """Workers that wait for a key."""
        self._progress = clock.monotonic()
        """When a key was finished last, or when there began to be something to do."""

    def add(self, key: Request) -> None:
        """Look at `key` as soon as a worker is free."""
        with self._changed:
            self._add(key)

    def add_after(self, key: Request, seconds: float) -> None:
        """Look at `key` in `seconds`, unless it is already due sooner."""
        if seconds <= 0:
            self.add(key)
            return
        with self._changed:
            due = self._clock.monotonic() + seconds
            if self._stopped or self._due.get(key, float("inf")) <= due:
                return
            self._due[key] = due
            self._sequence += 1
            heapq.heappush(self._heap, (due, self._sequence, key))
            if self._heap[0][0] == due:
                self._timer = None
                self._changed.notify()

    def back_off(self, key: Request) -> float:
        """Look at `key` after its own back-off, which this call doubles. Returns the wait in seconds."""
        with self._changed:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
            wait = BACKOFF.seconds(failures, self._rng.random())
        self._instruments.retried(self.name)
        self.add_after(key, wait)
        return wait

    def forget(self, key: Request) -> None:
        """`key` succeeded: its next back-off starts from the shortest wait."""
        with self._changed:
            self._failures.pop(key, None)

    def failures(self, key: Request) -> int:
        """How often `key` failed since it last succeeded."""
        with self._changed:
            return self._failures.get(key, 0)

    def get(self, timeout: float | None = None) -> Request | None:
        """The next key, now held by the caller until `done`. None when `timeout` seconds passed (None: wait for
        ever) or the queue was shut down. With `timeout` 0 it never waits.

        Whatever delay the key had is dropped: the reconcile that follows decides anew.
        """
        with self._changed:
            deadline = None if timeout is None else self._clock.monotonic() + timeout
            self._takers += 1
            try:
                return self._next(deadline)
            finally:
                self._takers -= 1
                if self._heap and self._timer is None:
                    self._changed.notify()

    def done(self, key: Request) -> None:
        """The caller is finished with `key`."""
        with self._changed:
            self._working.discard(key)
            self._progress = self._clock.monotonic()
            if key in self._waiting:
                self._ready.append(key)
                self._changed.notify()
            if not self._working:
                self._idle.notify_all()

    def shut_down(self) -> None:
        """Hand out nothing more and wake every waiting `get`. Keys being worked on stay held until `done`."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        return self._stopped

    def drain(self, timeout: float) -> bool:
        """Wait until no key is being worked on; False when `timeout` seconds passed first."""
        deadline = self._clock.monotonic() + timeout
        with self._changed:
            while self._working:
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    return False
                self._idle.wait(left)
        return True

    def next_due(self) -> float | None:
        """When, on the monotonic clock, a key is to be looked at: now where one waits, None where none does."""
        with self._changed:
            self._promote()
            if self._ready:
                return self._clock.monotonic()
            return self._heap[0][0] if self._heap else None

    def stalled(self) -> float:
        """For how many seconds no key was finished though some were due and no worker was free; 0 while all is well."""
        with self._changed:
            self._promote()
            if self._stopped or self._takers or not (self._waiting or self._working):
                return 0.0
            return max(0.0, self._clock.monotonic() - self._progress)

    @property
    def working(self) -> int:
        """Keys that workers have."""
        return len(self._working)

    def __len__(self) -> int:
        """Keys that wait to be looked at now, delayed ones not counted."""
        with self._changed:
            self._promote()
            return len(self._ready)

    def _next(self, deadline: float | None) -> Request | None:
        while not self._stopped:
            self._promote()
            if self._ready:
                return self._take()
            left = None if deadline is None else deadline - self._clock.monotonic()
            if left is not None and left <= 0:
                return None
            if self._heap and self._timer is None:
                self._wait_as_timer(left)
            else:
                self._changed.wait(left)
        return None

    def _wait_as_timer(self, left: float | None) -> None:
        """Wait until the first delayed key is due, unless `left` seconds pass or something comes first."""
        mine = self._timer = object()
        due = self._heap[0][0] - self._clock.monotonic()
        try:
            self._changed.wait(due if left is None else min(due, left))
        finally:
            if self._timer is mine:
                self._timer = None

    def _add(self, key: Request) -> None:
        if self._stopped or key in self._waiting:
            return
        now = self._clock.monotonic()
        if not (self._waiting or self._working):
            self._progress = now
        self._waiting[key] = now
        self._instruments.added(self.name)
        if key not in self._working:
            self._ready.append(key)
            self._changed.notify()

    def _take(self) -> Request:
        key = self._ready.popleft()
        self._instruments.taken(self.name, self._clock.monotonic() - self._waiting.pop(key))
        self._working.add(key)
        self._due.pop(key, None)
        return key

    def _promote(self) -> None:
        """Move what is due from the heap to the queue; entries that were superseded are dropped."""
        now = self._clock.monotonic()
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) != due:
                heapq.heappop(self._heap)
            elif due <= now:
                heapq.heappop(self._heap)
                del self._due[key]
                self._add(key)
            else:
                return
