"""Makes file descriptors 0, 1 and 2 usable, whatever the caller of a command did. Standard library only."""

from __future__ import annotations

import os
import sys


def ensure() -> None:
    """Open /dev/null in the place of each that is closed (`>&-`). Call it before anything else is opened: a database
    that got descriptor 1 would have results written into it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
