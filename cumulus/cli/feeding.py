"""Gives a job's program what this command reads, while its log is followed: `cumulus run -i`."""

from __future__ import annotations

import sys
import threading
import time
from typing import IO

from cumulus.cli import context, terminal
from cumulus.client.http.errors import ServerUnavailable
from cumulus.client.programs import Streams
from cumulus.errors import CumulusError, NotFound, NotRunning
from cumulus.resources.key import Key
from cumulus.resources.registry import BY_NAME

_PAUSE = 0.25
"""Seconds between two tries to begin."""


class Feeder(threading.Thread):
    """Once it is started it gives the job its input, as soon as that runs. With this command's end the rest is cut
    off."""

    def __init__(self, key: Key, source: IO[bytes] | None = None) -> None:
        """`source`: what to give; this command's own input if left out."""
        # It reads what may never come: nobody waits for it.
        super().__init__(name="input", daemon=True)
        self._key = key
        self._source = source
        self._begun = self._over = False

    def leaving(self) -> str:
        """What comes of the input where this command leaves the job alone now: a sentence, "" where it has it all."""
        if self._over:
            return ""
        if self._begun:
            return "The rest of its input is cut off, so it gets SIGHUP."
        return f"It waits for its input, until its lease ends: cumulus attach -i {self._key.name} gives it."

    def run(self) -> None:
        try:
            with context.client() as client:
                while True:
                    try:
                        program = client.attach(self._key, stdin=True)
                        break
                    except (NotRunning, ServerUnavailable):
                        job = client.get(self._key)
                        if BY_NAME[self._key.kind].over(job):
                            return
                        time.sleep(_PAUSE)
                self._begun = True
                try:
                    source = sys.stdin if self._source is None else self._source
                    program.run(Streams(_unseen, _unseen, source.fileno()))
                finally:
                    program.close()
        except NotFound:
            pass  # Who follows the job says so.
        except (CumulusError, OSError) as error:
            if not self._ended():
                terminal.warning(f"its input was cut off: {error}")
        finally:
            self._over = True

    def _ended(self) -> bool:
        """Whether the job is over, or its program: then it needs no more."""
        try:
            with context.client() as client:
                return BY_NAME[self._key.kind].over(client.get(self._key))
        except CumulusError:
            return False


def _unseen(data: bytes) -> None:
    """What the program writes is in its log."""
