"""Watches: one feeder thread a store takes each new piece of the log once and hands it to all watches.

    commit in this process ------------> offer --------------------------+
    notification by another process --+                                  +-> each live watch's queue -> next()
    slow poll (the safety net) -------+-> wake -> feeder reads the log --+

A watch is *live* while the feeder fills its queue. One that starts in the past, or whose reader is so slow
that its queue is full, is *behind*: it reads the log itself, at its own speed and in its own thread, until
it has caught up. So a slow watch costs bounded memory, and nothing is lost, repeated or reordered, because
both ways read the one log, by revision.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cumulus.errors import CumulusError, StoreUnavailable
from cumulus.store.base import WatchEvent
from cumulus.store.codec import LogRow, event

BATCH = 500
"""Revisions read from the log at once."""
QUEUE_LIMIT = 2000
"""Events that may wait for a live watch before it has to read the log itself."""
POLL_SECONDS = 1.0
"""How late an event can be when a notification is lost."""


class LogSlice(NamedTuple):
    """A piece of the log: `events` after the revision asked for, complete up to revision `upto`."""

    events: list[WatchEvent]
    upto: int


ReadLog = Callable[[int, int], LogSlice]
"""(after, limit) -> the next slice; an empty one where there is nothing new. Raises Expired, StoreUnavailable."""

Kinds = frozenset[str] | None


class Hub:
    """The watches of one store and the thread that feeds them. The thread starts with the first watch."""

    def __init__(self, read: ReadLog, newest: Callable[[], int], *, poll_seconds: float = POLL_SECONDS) -> None:
        self._read = read
        self._newest = newest
        self._poll_seconds = poll_seconds
        self.lock = threading.Lock()
        self._watches: set[LogWatch] = set()
        self._wake = threading.Event()
        self._look = True
        """Whether there may be something in the log that was not offered."""
        self._offered: list[LogRow] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self.position = 0
        """Revision up to which live watches have been fed. Guarded by `lock`."""

    def watch(self, since: int, kinds: Kinds) -> LogWatch:
        """A watch from `since` on, which the caller has checked to be in the log."""
        newest = self._newest()
        with self.lock:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            if self._thread is None:
                self.position = newest
                self._thread = threading.Thread(target=self._feed, name="store-feeder", daemon=True)
                self._thread.start()
            watch = LogWatch(self, self._read, since, kinds)
            self._watches.add(watch)
        return watch

    def wake(self) -> None:
        """There may be something new in the log."""
        self._look = True
        self._wake.set()

    def offer(self, rows: Sequence[LogRow]) -> None:
        """These were just committed, in order, by this process: the feeder need not read them from the log where it
        has all that is before them. Called by one thread at a time."""
        if self._thread is None:
            return
        with self.lock:
            self._offered += rows
            if len(self._offered) > QUEUE_LIMIT:
                self._offered.clear()
                self._look = True
        self._wake.set()

    def forget(self, watch: LogWatch) -> None:
        with self.lock:
            self._watches.discard(watch)

    def close(self) -> None:
        """Close every watch and end the thread."""
        with self.lock:
            self._closed = True
            watches, thread = list(self._watches), self._thread
        for watch in watches:
            watch.close()
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _feed(self) -> None:
        while not self._closed:
            piece = self._from_offers() or self._from_log()
            if piece is not None:
                self._distribute(piece)
                continue
            if not self._wake.wait(self._poll_seconds):
                self._look = True
            self._wake.clear()

    def _from_offers(self) -> LogSlice | None:
        """What was offered, as far as it follows on what was fed; the rest has to come from the log."""
        if not self._offered:
            return None
        with self.lock:
            offered, self._offered = self._offered, []
        upto, events = self.position, []
        for row in offered:
            if row.revision == upto + 1:
                events.append(event(row))
                upto += 1
            elif row.revision > upto:
                self._look = True
                break
        return LogSlice(events, upto) if events else None

    def _from_log(self) -> LogSlice | None:
        """The next slice, None where there is nothing new."""
        if not self._look:
            return None
        self._look = False
        try:
            if self._newest() <= self.position:
                return None
            piece = self._read(self.position, BATCH)
        except Exception:
            self._hand_over()
            return None
        # There may be more, or what is new was restored with a gap before it.
        self._look = True
        return piece if piece.upto > self.position else None

    def _distribute(self, piece: LogSlice) -> None:
        chosen: dict[Kinds, list[WatchEvent]] = {None: piece.events}
        with self.lock:
            for watch in self._watches:
                kinds = watch.kinds
                if kinds not in chosen:
                    chosen[kinds] = [event for event in piece.events if event.key.kind in kinds]  # type: ignore[operator]
                watch.feed(chosen[kinds], self.position, piece.upto)
            self.position = piece.upto

    def _hand_over(self) -> None:
        """The log cannot be read from here on: let every watch meet the error itself, in its own thread."""
        with self.lock:
            for watch in self._watches:
                watch.stop_feeding(self.position)
        try:
            newest = self._newest()
        except Exception:
            return
        with self.lock:
            self.position = newest


class LogWatch:
    """A `Watch` over the log. Its own lock guards its state; the hub's lock is only ever taken before it."""

    def __init__(self, hub: Hub, read: ReadLog, since: int, kinds: Kinds) -> None:
        self.kinds = kinds
        self._hub = hub
        self._read = read
        self._position = since
        self._queue: list[WatchEvent] = []
        self._behind = True
        self._closed = False
        self._changed = threading.Condition(threading.Lock())

    @property
    def closed(self) -> bool:
        return self._closed

    def next(self, timeout: float | None = None) -> list[WatchEvent]:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._changed:
                while not (self._queue or self._closed or self._behind):
                    remaining = None if deadline is None else deadline - time.monotonic()
                    if remaining is not None and remaining <= 0:
                        return []
                    self._changed.wait(remaining)
                if self._queue or self._closed:
                    events, self._queue = self._queue, []
                    return events
            try:
                events = self._catch_up()
            except CumulusError:
                if self._closed:
                    return []
                raise
            if events:
                return events

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._queue = []
            self._changed.notify_all()
        self._hub.forget(self)

    def feed(self, events: list[WatchEvent], before: int, upto: int) -> None:
        """Take the events of (before, upto]. Called by the hub under its lock."""
        with self._changed:
            if self._behind or self._closed:
                return
            if len(self._queue) + len(events) > QUEUE_LIMIT:
                self._fall_behind(before)
                return
            fresh = events if self._position <= before else [e for e in events if e.revision > self._position]
            self._position = max(self._position, upto)
            if fresh:
                self._queue += fresh
                self._changed.notify()

    def stop_feeding(self, position: int) -> None:
        """Let the watch read for itself what comes after `position`. Called by the hub under its lock."""
        with self._changed:
            if not self._behind:
                self._fall_behind(position)

    def _fall_behind(self, position: int) -> None:
        """Everything up to `position` is queued or was delivered; the rest is to be read from the log."""
        self._behind = True
        self._position = max(self._position, position)
        self._changed.notify()

    def _catch_up(self) -> list[WatchEvent]:
        """Read one slice of the log; join the live watches when there is nothing newer than what they were fed."""
        piece = self._read(self._position, BATCH)
        with self._hub.lock, self._changed:
            self._position = piece.upto
            if piece.upto >= self._hub.position:
                self._behind = False
        kinds = self.kinds
        return piece.events if kinds is None else [event for event in piece.events if event.key.kind in kinds]
