"""Whether something can be read of a descriptor, within a time. Standard library only."""

from __future__ import annotations

import math
import select
from typing import Protocol


class HasDescriptor(Protocol):
    def fileno(self) -> int: ...


def is_readable(source: int | HasDescriptor, seconds: float | None = None) -> bool:
    """Wait for at most so many seconds, or for ever, until there is something to read or the other end is closed.

    By poll(2): select(2) takes no descriptor above 1023, and a daemon with many connections has such ones.
    """
    poll = select.poll()
    poll.register(source, select.POLLIN)
    return bool(poll.poll(None if seconds is None else math.ceil(1000 * max(0.0, seconds))))
