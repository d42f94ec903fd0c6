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
    typed: Callable[[bytes], None] = lambda data: None
    """Hears what of the input is sent."""


class RemoteProgram(Protocol):
    def run(self, streams: Streams) -> int:
        """Until the program has ended: its exit code. Raises ServerUnavailable, and CumulusError where the
        program ended with the job."""
        ...

    def close(self) -> None:
        """Also while it runs: the program gets SIGHUP then."""
        ...
