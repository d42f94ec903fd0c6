"""Asks the person at the terminal to confirm something."""

from __future__ import annotations

import sys


def possible() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def confirmed(question: str) -> bool:
    """Ask on stderr; anything but y or yes is no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
