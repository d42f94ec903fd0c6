"""Progress while waiting, on stderr: a spinner on a terminal, else one plain line for each change."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cumulus.lib import printable, safe_output

if TYPE_CHECKING:
    from rich.status import Status


class Progress:
    """`with Progress() as progress: progress.say(…)`. Saying the same again says nothing. It can begin anew after its
    end."""

    def __init__(self) -> None:
        self._last = ""
        self._status: Status | None = None

    def __enter__(self) -> Self:
        return self

    def say(self, text: str) -> None:
        """Show `text` as what is being waited for."""
        text = printable.one_line(text)
        if text == self._last:
            return
        self._last = text
        if not sys.stderr.isatty():
            safe_output.line(sys.stderr, text)
            sys.stderr.flush()
        elif self._status is None:
            from rich.console import Console
            from rich.text import Text

            self._status = Console(file=safe_output.raw(sys.stderr)).status(Text(text))
            self._status.start()
        else:
            from rich.text import Text

            self._status.update(Text(text))

    def end(self) -> None:
        """Take the spinner away."""
        self._last = ""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
