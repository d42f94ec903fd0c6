"""One connection here carried to a port of a job, over Kubernetes' channels in a WebSocket (see
`cumulus.server.http.kubernetes.core.portforward`)."""

from __future__ import annotations

import contextlib
import socket

from cumulus.client.http.websocket import ClientWebSocket
from cumulus.lib.remotecommand import CLOSE

DATA, ERROR = 0, 1
_CHUNK = 2**15
_HEAD = 2
"""Bytes that each channel begins with: the port."""


def forward(made: ClientWebSocket, connection: socket.socket) -> None:
    """Until the other end closes the connection, or nobody reads this one any more."""
    begun: set[int] = set()
    reads = True
    while True:
        made.turn()
        for message in made.received():
            channel, data = message[0] if message else ERROR, message[1:]
            if channel not in begun:
                begun.add(channel)
                data = data[_HEAD:]
            if channel == DATA and data:
                try:
                    connection.sendall(data)
                except OSError:
                    return
        if made.ended:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            return
        others = [connection.fileno()] if reads and not made.is_full else []
        if made.wait(*others):
            try:
                data = connection.recv(_CHUNK)
            except OSError:
                return
            reads = bool(data)
            made.send(bytes([DATA]) + data if data else bytes([CLOSE, DATA]))
