"""Keeps a command server (`cumulus.cli.command_server`) running as long as the daemon does."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from cumulus.lib.backoff import Backoff

_log = structlog.get_logger("cumulus.command_server")

RESTART_SECONDS = 5.0
"""The first pause before it is started again."""
_MOST_RESTART_SECONDS = 3600.0
"""Where it cannot run at all, as in a directory that takes no sockets, trying must cost nothing."""
_KEPT = ("PATH", "HOME", "LANG", "LC_", "LD_", "PYTHON", "TYPER_", "TZ")
"""How variables begin that the server needs itself. Its commands get their callers'; and with a job's it would be taken
for a process of that job."""


class CommandServerProcess:
    """One server process on a state directory, from `start` to `close`. Without it, commands only start slower."""

    def __init__(self, home: Path, environment: Mapping[str, str], *, restart_seconds: float = RESTART_SECONDS) -> None:
        self._home = home
        self._environment = {name: value for name, value in environment.items() if name.startswith(_KEPT)}
        self._restart_seconds = restart_seconds
        self._closed = threading.Event()
        self._mutex = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="command-server", daemon=True)

    def start(self) -> None:
        """May be called again. Returns at once."""
        if self._thread.ident is None:
            self._thread.start()

    @property
    def pid(self) -> int | None:
        """Of the last that was started."""
        return None if self._process is None else self._process.pid

    def join(self, timeout: float) -> bool:
        """Wait, after `close`, until the server has ended; whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Take no more commands; those that run are finished. Returns at once."""
        self._closed.set()
        with self._mutex:
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()

    def _run(self) -> None:
        again, failures = Backoff(self._restart_seconds, _MOST_RESTART_SECONDS), 0
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                code = self._started().wait()
                # It was killed, or saw that its package was replaced.
                _log.debug("the command server ended", code=code)
            except OSError as error:
                _log.debug("the command server does not start", error=str(error))
            lived = time.monotonic() - began
            failures = 0 if lived > again.seconds(failures) else failures + 1
            self._closed.wait(again.seconds(failures))

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "cumulus.cli.command_server", str(self._home)]
        with self._mutex:
            # The pipe is how it sees that the daemon has ended, also by kill -9.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=self._environment, start_new_session=True,
            )  # fmt: skip
            if self._closed.is_set() and self._process.stdin is not None:
                self._process.stdin.close()
            return self._process
