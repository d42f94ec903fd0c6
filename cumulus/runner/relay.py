"""Carries one connection to a session of this machine through standard input and output, for who is elsewhere."""

from __future__ import annotations

import os
import socket
import sys
import threading

from cumulus.calls.envelope import SOCKET
from cumulus.calls.session import CONNECTED
from cumulus.lib import unix_socket

_CHUNK = 2**16


def relay(directory: str) -> int:
    """Say `CONNECTED` once the session listens, then carry bytes both ways until either side ends. The exit code."""
    try:
        connection = unix_socket.connect(os.path.join(directory, SOCKET))
    except (FileNotFoundError, ConnectionRefusedError):
        return 1
    _write(CONNECTED)
    threading.Thread(target=_send, args=(connection,), daemon=True).start()
    while True:
        data = connection.recv(_CHUNK)
        if not data:
            return 0
        _write(data)


def _send(connection: socket.socket) -> None:
    while True:
        data = os.read(sys.stdin.fileno(), _CHUNK)
        if not data:
            connection.shutdown(socket.SHUT_WR)
            return
        connection.sendall(data)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]
