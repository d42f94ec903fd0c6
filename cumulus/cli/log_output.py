"""A job's log on its way to stdout: to a pipe as the job wrote it, to a terminal as `cumulus.lib.screen` lets it
through. `… | cat` gives the bytes.
"""

from __future__ import annotations

from typing import TextIO

from cumulus.lib.screen import Screen


class LogOutput:
    """Writes a log to `out` as it comes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._screen: Screen | None = None

    def write(self, data: bytes) -> None:
        if self._screen is None and self._out.isatty():
            self._screen = Screen()
        self._flush(self._screen.feed(data) if self._screen else data)

    def end(self) -> None:
        """Write what was held back: the log ends here, or something else comes before it goes on."""
        if self._screen is not None:
            rest, self._screen = self._screen.end(), None
            self._flush(rest)

    def _flush(self, data: bytes) -> None:
        self._out.buffer.write(data)
        self._out.buffer.flush()
