"""Streams input to a command on a node: `NodeConnection.run` holds all of its input in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import paramiko

from cumulus.errors import NodeUnreachable
from cumulus.nodes.connection import NodeConnection

STALL_SECONDS = 120.0
"""How long the command may take no more of its input."""

END_SECONDS = 900.0
"""How long it may take to end, once it has all of it."""

_MOST_SAID = 1 << 16


def upload(connection: NodeConnection, command: str, chunks: Iterable[bytes]) -> tuple[int, str, str]:
    """Exit status, output and errors of a command that reads `chunks`.

    Where `chunks` raises, the command sees its input cut off, and the error is raised on. A command that ends before it
    has read everything is no error of ours. Raises `NodeUnreachable`.
    """
    with connection.channel(command) as channel:
        output, errors = _Tail(channel.recv), _Tail(channel.recv_stderr)
        try:
            _send(channel, chunks)
            channel.settimeout(None)
            if not channel.status_event.wait(END_SECONDS):
                raise NodeUnreachable(f"{connection.node} did not finish within {END_SECONDS:.0f}s: {command}")
            status = channel.recv_exit_status()
        except TimeoutError:
            raise NodeUnreachable(f"{connection.node} took nothing more for {STALL_SECONDS:.0f}s: {command}") from None
        if status == -1:
            raise NodeUnreachable(f"{connection.node} broke the connection, or the command there was killed: {command}")
        return status, output.text(), errors.text()


def _send(channel: paramiko.Channel, chunks: Iterable[bytes]) -> None:
    channel.settimeout(STALL_SECONDS)
    for chunk in chunks:
        try:
            channel.sendall(chunk)
        except TimeoutError:
            raise
        except OSError:
            return  # It has ended, or the connection has: its status tells.
    channel.shutdown_write()


class _Tail:
    """Reads beside the writing, so that neither waits for the other; keeps the last of it."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        self._receive = receive
        self._kept = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def text(self) -> str:
        self._thread.join(END_SECONDS)
        return self._kept.decode(errors="replace")

    def _read(self) -> None:
        while True:
            try:
                chunk = self._receive(65536)
            except TimeoutError:
                continue  # The time-out is for the writing.
            if not chunk:
                return
            self._kept = (self._kept + chunk)[-_MOST_SAID:]
