"""Wakes the watches of this process when another process wrote to the store.

A writer touches the file `changed` after its commit is visible. (The write-ahead log itself changes *before*
that, so its notification would come too early and the event would wait for the slow poll.) `watchfiles`
tells of the touch; its Python interface groups changes for at least 50 ms, so its Rust part is used directly.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SIGNAL = "changed"
_IDLE_STEP_MS = 3
"""How often watchfiles looks for what the system told it; an event is passed on after at most two steps. Shorter steps
keep an idle daemon busy: at 1 ms the looking alone takes more than 1 % of a core."""
_BUSY_STEP_MS = 1
_BUSY_MS = 250
"""How long after an event the next is looked for in the shorter steps: writes come in bursts."""
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
        self._thread = threading.Thread(target=self._run, name="store-notifier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._listen()
        except (OSError, RuntimeError):
            while not self._stop.wait(_FALLBACK_SECONDS):
                self._wake()

    def _listen(self) -> None:
        from watchfiles._rust_notify import RustNotify

        file = self._directory / SIGNAL
        with suppress(OSError):
            file.touch(mode=0o600)
        watched = file if file.exists() else self._directory
        with RustNotify([str(watched)], False, False, 0, False, False) as notify:
            step, timeout = _IDLE_STEP_MS, 0
            while (found := notify.watch(0, step, timeout, self._stop)) != "stop":
                step, timeout = _IDLE_STEP_MS, 0
                if found != "timeout":
                    self._wake()
                    step, timeout = _BUSY_STEP_MS, _BUSY_MS
