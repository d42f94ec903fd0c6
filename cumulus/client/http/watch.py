"""`Client.watch` over HTTP: it goes on after the server restarted, from the revision that it had reached."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from time import monotonic

from cumulus.client.http.connection import ClientConnection, Cut, Stream
from cumulus.client.http.errors import error_in
from cumulus.errors import CumulusError, StoreUnavailable
from cumulus.resources.query import WatchEvent

BUFFER = 2000
"""Events that are read ahead. Then the server waits, and keeps no more for a client that takes none."""


class HttpWatch:
    """See `resources.query.Watch`. `open`: the stream of what comes after a revision."""

    def __init__(self, connection: ClientConnection, open: Callable[[int], Stream], since: int) -> None:
        self._connection = connection
        self._open = open
        self._revision = since
        self._stream = open(since)
        self._come: queue.Queue[WatchEvent | CumulusError | None] = queue.Queue(BUFFER)
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def next(self, timeout: float | None = None) -> list[WatchEvent]:
        deadline = None if timeout is None else monotonic() + timeout
        found: list[WatchEvent] = []
        while not self.closed:
            try:
                left = None if deadline is None else max(0.0, deadline - monotonic())
                item = self._come.get(block=not found, timeout=left)
            except queue.Empty:
                break
            if isinstance(item, CumulusError):
                self._closed.set()
                if found:
                    self._come.put(item)
                    self._closed.clear()
                    break
                raise item
            if item is not None:
                found.append(item)
        return found

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        self._closed.set()
        self._stream.close()
        # Whoever waits in `next`, or to put an event, goes on.
        try:
            while True:
                self._come.get_nowait()
        except queue.Empty:
            self._come.put(None)

    def _run(self) -> None:
        try:
            while not self.closed:
                try:
                    self._read()
                except Cut:
                    if self.closed:
                        return
                    self._stream = self._connection.again(lambda: self._open(self._revision))
        except CumulusError as error:
            self._come.put(error)

    def _read(self) -> None:
        for line in self._stream.lines():
            if (status := line.get("error")) is not None:
                error = error_in(status)
                if isinstance(error, StoreUnavailable):
                    raise Cut  # It is ending, and may come back.
                raise error
            if (document := line.get("object")) is not None and not self.closed:
                self._come.put(WatchEvent(line["type"], line["revision"], document))
            self._revision = line["revision"]
