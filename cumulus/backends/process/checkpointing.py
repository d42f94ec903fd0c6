"""Asks a run's program for a checkpoint, and follows what it saved. Used by the supervisor only.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

from cumulus.backends import checkpoints, variables
from cumulus.backends.checkpoints import SealedCheckpoint, document_of
from cumulus.backends.process import layout
from cumulus.backends.rundir.checkpoint import CheckpointFiles, answer_of
from cumulus.backends.rundir.documents import write_document
from cumulus.lib.files import replacing
from cumulus.lib.processes import status_field
from cumulus.lib.unix_user import UnixUser

LOOK, LOOK_FOR_ANSWER = 10.0, 0.1
"""Seconds between looks at what was saved: while the program runs, and once it was asked."""

_PATIENCE = 1.0
_SLOW_LOOK = 60.0
"""Seconds until the next look at a file system that did not answer."""


class CheckpointWatch:
    """The checkpoints of one run, as its spec.json names them."""

    def __init__(self, spec: dict[str, Any]) -> None:
        asked = spec.get("checkpoint") or {}
        path = spec["fixed_env"].get(variables.CHECKPOINT_PATH)
        self._user = UnixUser.read(spec.get("user"))
        self.store = CheckpointFiles(path, _PATIENCE, self._user) if path else None
        self._request: str = asked.get("request", "")
        self._events: str = spec["events"]
        self.saved = layout.read_saved()
        self._before: SealedCheckpoint | None = None
        """The newest when the program was asked."""
        self.asked = False
        self.next_look = 0.0
        self.not_copied: Callable[[], None] = lambda: None
        """Called at each look at which the newest does not get beyond the node."""

    def look(self, now: float) -> None:
        """See whether there is a newer checkpoint, if it is time for that; the backend is told of one."""
        if self.store is None or now < self.next_look:
            return
        self.next_look = now + (LOOK_FOR_ANSWER if self.asked else LOOK)
        try:
            found = self.store.saved(self.saved)
        except checkpoints.CheckpointUnseen:
            self.next_look = now + _SLOW_LOOK
            return
        if found is not None and found.upload_error:
            self.not_copied()
        if found == self.saved:
            return
        self.saved = found
        with contextlib.suppress(OSError):
            write_document(layout.SAVED, dict(document_of(found) or {}))
            os.utime(self._events)

    def ask(self, now: float, reason: str) -> None:
        """Ask the program for a checkpoint. It is not signalled."""
        if not self._request or self.asked:
            return
        self.next_look = 0.0
        self.look(now)
        self._before = self.saved
        with contextlib.suppress(checkpoints.CheckpointUnseen):
            answer_of(self._write(reason), self._user, _PATIENCE)
        self.asked = True
        self.next_look = now + LOOK_FOR_ANSWER

    @property
    def answered(self) -> bool:
        """Whether a checkpoint has become whole since the program was asked."""
        return self.asked and self.saved is not None and self.saved != self._before

    def _write(self, reason: str) -> Any:
        def write() -> str:
            with contextlib.suppress(OSError), replacing(self._request, 0o644, durable=False) as file:
                file.write(f"{reason}\n".encode())
            return ""

        return write


def catches_sigterm(pid: int) -> bool:
    """Whether a process has a handler for the stop signal."""
    caught = status_field(pid, b"SigCgt:")
    return bool(caught) and bool(int(caught[0], 16) >> (signal.SIGTERM - 1) & 1)
