"""This process's terminal while a program elsewhere uses it: keys go there one by one, and so does its size."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_PLAIN = "dumb"


def kind() -> str:
    """What the terminal is, as in TERM."""
    return os.environ.get("TERM") or _PLAIN


def size() -> tuple[int, int]:
    """Columns and rows."""
    try:
        found = os.get_terminal_size(sys.stdin.fileno())
    except OSError:
        return 0, 0
    return found.columns, found.lines


@contextmanager
def raw() -> Iterator[None]:
    """Within it no key means anything here. Signals that end this process put the terminal back first."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    handlers = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        # What was typed already is kept.
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
