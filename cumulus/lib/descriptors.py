"""Which file descriptors a process has, whatever it was started with. Standard library only."""

from __future__ import annotations

import os
import sys


def ensure() -> None:
    """Make 0, 1 and 2 usable: open /dev/null in the place of each that is closed (`>&-`). Call it before anything else
    is opened: a database that got descriptor 1 would have results written into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def close_all_but(*kept: int) -> None:
    """All beyond 0, 1 and 2 that are not to be kept."""
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
