"""The terminal of a job's container, for those who are attached to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping
from typing import IO, Any

from cumulus.chronos.carrier import DETACHED, GONE, Carrier
from cumulus.chronos.job_container import LOOK, JobContainer, exit_code, hang_up
from cumulus.errors import BackendError, NotRunning
from cumulus.lib import processes
from cumulus.lib.execution import DETACH
from cumulus.lib.run_channel import ENDED, STARTED, STDOUT, Frames

DETACH_KEYS = "ctrl-^,ctrl-_,ctrl-^,ctrl-_"
"""The engine lets no terminal be without keys to leave it. These nobody types."""
_JOIN_SECONDS = 5.0
_ALONE_LOOK = 0.5
"""Between looks for one who is attached."""
_SHOWN, _SHOWN_LINES = 2**16, 500
"""Of its log, what one who is attached is shown first: bytes, and lines."""


class Terminal:
    """The terminal of the container's own program, for one who is attached to it.

    Where the last of them has gone without a word the program gets SIGHUP after a minute: whoever goes waits for that,
    and leaves it to the next one who comes. They know of each other by a lock on the container's namespace."""

    def __init__(self, reached: JobContainer, asked: Mapping[str, Any]) -> None:
        self._reached = reached
        self._engine = reached.engine
        self._stdin = bool(asked["stdin"])
        self._alone = float(asked["alone"])
        if not self._engine.get("/containers/{0}/json", reached.id)["Config"].get("Tty"):
            raise NotRunning("its program has no terminal")

    def run(self, frames: Frames) -> None:
        place, id = "/containers/{0}/attach", self._reached.id
        how = {"stream": "1", "stdout": "1", "stderr": "1", "stdin": str(int(self._stdin)), "detachKeys": DETACH_KEYS}
        with open(f"/proc/{self._reached.leader}/ns/pid") as lock:
            lock_shared(lock)
            with self._engine.opened(place, id, **how) as streams:
                frames.put(STARTED)
                frames.put(STDOUT, self._shown())
                carrier = Carrier(
                    frames, streams, resize=self._resize, end_of_input=lambda: None,
                    leave=DETACH if self._stdin else b"",
                )  # fmt: skip
                why = carrier.run()
            if why == GONE:
                self._wait_for_another(lock)
                return
        frames.put_json(ENDED, [0 if why == DETACHED else self._exit_code(), ""])

    def _shown(self) -> bytes:
        """The end of its log, which is what was on its screen. The last line comes there once it is whole."""
        with contextlib.suppress(BackendError, NotRunning):
            return self._engine.text(
                "/containers/{0}/logs", self._reached.id, stdout="1", stderr="1", tail=str(_SHOWN_LINES)
            )[-_SHOWN:]  # fmt: skip
        return b""

    def _resize(self, columns: int, rows: int) -> None:
        if not (0 < columns < 2**15 and 0 < rows < 2**15):
            return
        # A size that is none of before makes a shell show its line again.
        for width in (columns + 1, columns):
            with contextlib.suppress(BackendError, NotRunning):
                self._engine.post("/containers/{0}/resize", self._reached.id, w=str(width), h=str(rows))

    def _wait_for_another(self, lock: IO[str]) -> None:
        fcntl.flock(lock, fcntl.LOCK_UN)
        _let_go_of_streams()
        deadline = time.monotonic() + self._alone
        while time.monotonic() < deadline:
            if processes.pid_namespace(self._reached.leader) != self._reached.namespace:
                return
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return
            fcntl.flock(lock, fcntl.LOCK_UN)
            time.sleep(_ALONE_LOOK)
        hang_up(self._reached)

    def _exit_code(self) -> int | None:
        return exit_code(lambda: self._engine.get("/containers/{0}/json", self._reached.id)["State"])


def lock_shared(lock: IO[str]) -> None:
    """Raises BackendError where the container's own program has the lock, which each of its processes can take."""
    deadline = time.monotonic() + _JOIN_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BackendError("its program locks its own PID namespace, so nobody can be attached") from None
        time.sleep(LOOK)


def _let_go_of_streams() -> None:
    """Let the connection over which this was started end."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
