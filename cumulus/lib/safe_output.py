"""The one gate between this program and a person's terminal: what others wrote cannot move the cursor or forge lines.

`guarded()` puts it in front of stdout and stderr. From then on `print` writes one line, whatever it is given: a line
break or control character within it is shown, not obeyed. Text of several lines goes through `block`, colours through
`line`, and bytes that are somebody's data, as a job's log, through `raw` (see `cumulus.cli.log_output`). A pipe gets
the same as a terminal, without colours. Standard library only.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO, TextIO

from cumulus.lib import printable

GREEN, YELLOW, RED, DIM, BOLD = "32", "33", "31", "2", "1"
_NARROWEST = 20
"""Columns that a paragraph has at least, on the narrowest terminal."""
StyledPart = str | tuple[str, str]
"""Text of a line, or text and its colour."""


class Gate(io.TextIOBase):
    """A text stream in whose lines nothing but their own end is obeyed."""

    def __init__(self, stream: TextIO) -> None:
        self.raw = stream

    def write(self, text: str) -> int:
        """One line, or a part of one: line breaks within it are shown as blanks."""
        if not isinstance(text, str):
            raise TypeError(f"a text stream takes str, not {type(text).__name__}")
        end = "\n" if text.endswith("\n") else ""
        _write(self.raw, printable.one_line(text[: len(text) - len(end)]) + end)
        return len(text)

    def flush(self) -> None:
        self.raw.flush()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def fileno(self) -> int:
        return self.raw.fileno()

    def writable(self) -> bool:
        return True

    @property
    def buffer(self) -> BinaryIO:
        return self.raw.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.raw.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.raw.errors


@contextmanager
def guarded() -> Iterator[None]:
    """Within it stdout and stderr are gates; so is where Python tells of an exception that nobody caught."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream if stream is None else _gate(stream) for stream in before)
    try:
        yield
    except Exception:
        sys.excepthook = _tell
        raise
    finally:
        sys.stdout, sys.stderr = before


def raw(stream: TextIO) -> TextIO:
    """The stream behind the gate, for what must come out as it is and was made harmless already."""
    return stream.raw if isinstance(stream, Gate) else stream


def line(out: TextIO, *parts: StyledPart) -> None:
    """Write one line; parts get their colours where `out` takes them."""
    coloured = colours(out)
    texts = []
    for part in parts:
        text, code = (part, "") if isinstance(part, str) else part
        text = printable.one_line(text)
        texts.append(f"\x1b[{code}m{text}\x1b[0m" if code and text and coloured else text)
    _write(raw(out), "".join(texts) + "\n")


def paragraph(out: TextIO, text: str) -> None:
    """Write a line; on a terminal that is too narrow for it, it goes on below, indented by two more than it begins."""
    room = width(out)
    begins = text[: len(text) - len(text.lstrip(" "))]
    text = printable.one_line(text.lstrip(" "))
    if not room or len(begins) + printable.cells(text) <= room:
        line(out, begins + text)
        return
    first, *more = printable.wrap(text, max(room - len(begins) - 2, _NARROWEST), whole_words=True)
    line(out, begins + first)
    for each in more:
        line(out, f"{begins}  {each}")


def block(out: TextIO, text: str) -> None:
    """Write text of several lines, which keep their breaks and tabs."""
    _write(raw(out), printable.block(text))


def colours(stream: TextIO) -> bool:
    """Whether colour codes may be written to `stream`: a terminal that has them, and no NO_COLOR."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def width(stream: TextIO) -> int | None:
    """Columns of the terminal behind `stream` (COLUMNS where it is set), None where it is none: what is piped is never
    cut."""
    if not stream.isatty():
        return None
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said):
        return int(said)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except OSError:
        return None


def _gate(stream: TextIO) -> TextIO:
    made: Any = stream if isinstance(stream, Gate) else Gate(stream)
    return made  # type: ignore[no-any-return]


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding
    if encoding and encoding.lower() not in ("utf-8", "utf8"):
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    stream.write(text)


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if sys.stderr is not None:
        import traceback

        block(sys.stderr, "".join(traceback.format_exception(kind, error, trace)))
