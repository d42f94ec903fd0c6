"""A program that a client started on a node: what its streams are joined to here. Standard library only."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol


def _no_size() -> tuple[int, int]:
    return 0, 0


class Streams(NamedTuple):
    """`stdin` is a descriptor of this process, None for no input. The others take what comes."""

    stdout: Callable[[bytes], None]
    stderr: Callable[[bytes], None]
    stdin: int | None = None
    size: Callable[[], tuple[int, int]] = _no_size
    """Columns and rows of the terminal here: asked now and then."""
    keys: Callable[[bytes], bytes | None] = lambda typed: typed
    """What of the input is sent on; None: no more, and the program is let go of."""


class Detached(Exception):
    """Who types has let go of the program."""


class RemoteProgram(Protocol):
    def run(self, streams: Streams) -> int:
        """Until the program has ended: its exit code. Raises Detached, ServerUnavailable, and CumulusError where the
        program ended with the job."""
        ...

    def close(self) -> None:
        """Also while it runs: the program gets SIGHUP then."""
        ...
