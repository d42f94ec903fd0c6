"""Wakes the watches of this process when another process wrote to the store.

A writer touches the file `changed` after its commit is visible. (The write-ahead log itself changes *before*
that, so its notification would come too early and the event would wait for the slow poll.) Who watches sleeps until
the kernel tells of the touch: no process looks again and again for writes that do not come.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cumulus.lib.inotify import Inotify

SIGNAL = "changed"
_GATHER_SECONDS = 0.002
"""After a touch the next ones are gathered for so long: writes come in bursts, and each of them would wake a thread."""
_FALLBACK_SECONDS = 0.05
"""How often to look where the system has no notifications left to give (inotify's limits)."""


class Signal:
    """The touch. Safe for use by one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / SIGNAL
        self._descriptor: int | None = None

    def send(self) -> None:
        """Tell other processes. Where that fails (a full disk) their slow poll finds the write."""
        with suppress(OSError):
            if self._descriptor is None:
                self._descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._descriptor, b"\n", 0)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Notifier:
    """One thread that calls `wake` after each touch by any process."""

    def __init__(self, directory: Path, wake: Callable[[], None]) -> None:
        self._directory = directory
        self._wake = wake
        self._stop = threading.Event()
        self._stopped, self._stopper = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="store-notifier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        os.close(self._stopper)
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._stopped)

    def _run(self) -> None:
        try:
            touches = self._touches()
        except OSError:
            while not self._stop.wait(_FALLBACK_SECONDS):
                self._wake()
            return
        try:
            self._listen(touches)
        finally:
            touches.close()

    def _touches(self) -> Inotify:
        file = self._directory / SIGNAL
        with suppress(OSError):
            file.touch(mode=0o600)
        return Inotify(str(file if file.exists() else self._directory), written=True)

    def _listen(self, touches: Inotify) -> None:
        poll = select.poll()
        for descriptor in (touches.descriptor, self._stopped):
            poll.register(descriptor, select.POLLIN)
        while True:
            poll.poll()
            if self._stop.is_set():
                return
            touches.drain()
            self._wake()
            time.sleep(_GATHER_SECONDS)
