"""What the terminal can do, and the ways of speaking to the person at it.

Results go to stdout; everything else (errors, notes, progress) to stderr, so that pipes carry results alone.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from cumulus.errors import CumulusError

GREEN, YELLOW, RED, DIM, BOLD = "32", "33", "31", "2", "1"


def colours(stream: TextIO) -> bool:
    """Whether colour codes may be written to `stream`: a terminal that has them, and no NO_COLOR."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def paint(text: str, code: str, stream: TextIO) -> str:
    """`text` in a colour where `stream` takes colours."""
    return f"\x1b[{code}m{text}\x1b[0m" if code and colours(stream) else text


def width(stream: TextIO) -> int | None:
    """Columns of the terminal behind `stream`, None where it is none: what is piped is never cut."""
    if not stream.isatty():
        return None
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return None
    return columns or None


def one_line(text: str) -> str:
    """Text with line breaks and control characters made harmless."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split("\n")))


def error(problem: CumulusError | str) -> None:
    """One line on stderr: what is wrong, and what would make it right. Each problem of a manifest has its own line."""
    hint = problem.hint if isinstance(problem, CumulusError) else None
    text = f"{problem}; {hint}" if hint else str(problem)
    problems = [str(each) for each in getattr(problem, "problems", ())]
    for line in problems:
        # As compilers print them, so that editors can jump there.
        note(line)
    if problems:
        text = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}; nothing was changed"
    print(f"{paint('error:', RED, sys.stderr)} {one_line(text)}", file=sys.stderr)


def note(text: str) -> None:
    """One line on stderr that is no failure."""
    print(one_line(text), file=sys.stderr)


def warning(text: str) -> None:
    print(f"{paint('warning:', YELLOW, sys.stderr)} {one_line(text)}", file=sys.stderr)
