"""This process's terminal while a program elsewhere uses it: keys go there one by one, and so does its size."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

DETACH = b"\x10\x11"
"""Ctrl-P Ctrl-Q, as in docker."""
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
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


class DetachKeys:
    """What is typed, without the keys that detach; None once they were typed."""

    def __init__(self) -> None:
        self._held = b""

    def __call__(self, typed: bytes) -> bytes | None:
        typed, self._held = self._held + typed, b""
        if DETACH in typed:
            return None
        if typed.endswith(DETACH[:1]):
            typed, self._held = typed[:-1], DETACH[:1]
        return typed
