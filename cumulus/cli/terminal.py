"""Notes, warnings and errors for the person at the terminal.

Results go to stdout; everything else (errors, notes, progress) to stderr, so that pipes carry results alone. All of it
goes through `cumulus.lib.safe_output`.
"""

from __future__ import annotations

import sys

from cumulus.errors import CumulusError
from cumulus.lib import safe_output


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
    safe_output.line(sys.stderr, ("error:", safe_output.RED), f" {text}")


def note(text: str) -> None:
    """One line on stderr that is no failure."""
    safe_output.line(sys.stderr, text)


def warning(text: str) -> None:
    safe_output.line(sys.stderr, ("warning:", safe_output.YELLOW), f" {text}")
