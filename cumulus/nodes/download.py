"""Streams the output of a command on a node: `NodeConnection.run` holds all of it in memory."""

from __future__ import annotations

from collections.abc import Iterator

import paramiko

from cumulus.errors import NodeUnreachable
from cumulus.nodes.connection import NodeConnection

STALL_SECONDS = 120.0
"""How long the command may write nothing."""

_CHUNK = 256 * 2**10


def download(connection: NodeConnection, command: str, given: bytes = b"") -> Iterator[bytes]:
    """What the command writes, which reads `given`. How it ends is not told: what it wrote has to say that it is whole.
    Raises `NodeUnreachable`."""
    with connection.channel(command) as channel:
        channel.settimeout(STALL_SECONDS)
        try:
            channel.sendall(given)
            channel.shutdown_write()
            while chunk := channel.recv(_CHUNK):
                yield chunk
        except TimeoutError:
            said = f"{connection.node} wrote nothing more for {STALL_SECONDS:.0f}s: {command}"
            raise NodeUnreachable(said) from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise NodeUnreachable(f"{connection.node} broke the connection: {error}") from None
