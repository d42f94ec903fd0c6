"""Keeps a process running as long as the daemon does: starts it, and starts it again when it has ended."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from cumulus.lib.backoff import Backoff

_log = structlog.get_logger("cumulus.serve")
_KEPT = ("PATH", "HOME", "LANG", "LC_", "LD_", "PYTHON", "TYPER_", "TZ")
"""How variables begin that a server needs itself. With a job's it would be taken for a process of that job."""


class ChildProcess:
    """A module of ours, run with `arguments`, from `start` to `close`.

    `keeps`: how variables begin that it needs beside the usual ones. `says`: what it reads first on its standard input,
    which stays open until it is to end: so it also sees that the daemon was killed. `hears`: called with each line that
    it writes to stderr. `restart_seconds` and `most_restart_seconds`: the first and the longest pause before it is
    started again. `warns`: whether the log tells people that it ended.
    """

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str], *,
        restart_seconds: float, most_restart_seconds: float, keeps: tuple[str, ...] = (), says: bytes = b"",
        hears: Callable[[bytes], None] | None = None, warns: bool = False,
    ) -> None:  # fmt: skip
        self._name = name
        self._command = [sys.executable, "-P", "-m", module, *arguments]
        self._environment = {key: value for key, value in environment.items() if key.startswith(_KEPT + keeps)}
        self._again = Backoff(restart_seconds, most_restart_seconds)
        self._says = says
        self._hears = hears
        self._tell = _log.warning if warns else _log.debug
        self._closed = threading.Event()
        self._mutex = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """May be called again. Returns at once."""
        if self._thread.ident is None:
            self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the last that was started."""
        return None if self._process is None else self._process.pid

    def join(self, timeout: float) -> bool:
        """Wait, after `close`, until it has ended; whether it has."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """It takes nothing new, and finishes what it does. Returns at once."""
        self._closed.set()
        with self._mutex:
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()

    def _run(self) -> None:
        failures = 0
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                process = self._started()
                for line in process.stderr or ():
                    if self._hears is not None:
                        self._hears(line)
                code = process.wait()
                if not self._closed.is_set():
                    # It was killed, or saw that its package was replaced.
                    self._tell(f"the {self._name} ended; it is started again", code=code)
            except OSError as error:
                self._tell(f"the {self._name} does not start", error=str(error))
            lived = time.monotonic() - began
            failures = 0 if lived > self._again.seconds(failures) else failures + 1
            self._closed.wait(self._again.seconds(failures))

    def _started(self) -> subprocess.Popen[bytes]:
        with self._mutex:
            process = self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL if self._hears is None else subprocess.PIPE,
                env=self._environment, start_new_session=True,
            )  # fmt: skip
            assert process.stdin is not None
            if self._says:
                # Less than a pipe holds, so it never waits.
                process.stdin.write(self._says)
                process.stdin.flush()
            if self._closed.is_set():
                process.stdin.close()
            return process
