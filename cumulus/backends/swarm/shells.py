"""Shells on nodes, as the backend needs them: over SSH, and in tests by other ways."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable


class NodeShell(Protocol):
    """Runs a command on a node. Raises `ChronosError` where it cannot be reached."""

    def run(self, command: str, seconds: float) -> tuple[int, str, str]:
        """Exit status, output, errors."""
        ...


@runtime_checkable
class Feeds(NodeShell, Protocol):
    """A shell whose commands can be fed. Its methods raise `ChronosError` where the node cannot be reached."""

    def feed(self, command: str, chunks: Iterable[bytes]) -> tuple[int, str, str]:
        """Exit status, output and errors of a command that reads `chunks`. Where these raise, the command sees its
        input cut off, and the error is raised on."""
        ...


@runtime_checkable
class StreamingShell(NodeShell, Protocol):
    """A shell whose commands may write more than fits into memory."""

    def read(self, command: str, given: bytes) -> Iterator[bytes]:
        """What a command writes, which reads `given`; how it ended is not told. Raises `ChronosError`."""
        ...


@runtime_checkable
class Relays(NodeShell, Protocol):
    """A shell whose commands can be talked to."""

    def relay(self, command: str) -> socket.socket:
        """A connection to the command's input and output. Raises `ChronosError`."""
        ...
