"""Python's collector of cyclic garbage, told what our programs are like: nearly all that one makes as it starts lives
as long as the program. Standard library only."""

from __future__ import annotations

import gc

_YOUNG_OBJECTS = 50_000
"""How many new objects there are before it looks at them. At Python's own 700 it looks at each module that is loaded
again and again: a fifth of the time that a program takes to start."""


def begin() -> None:
    """For a program that is about to load its modules."""
    gc.set_threshold(_YOUNG_OBJECTS)


def end() -> None:
    """For a program that is about to return: what there is goes with the process. Python would look through it all
    first, which takes longer than most commands."""
    gc.freeze()
