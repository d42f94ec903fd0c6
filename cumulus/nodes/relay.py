"""A connection that leads to a command on a node: what is sent is its input, what it writes is received."""

from __future__ import annotations

import contextlib
import select
import socket
import threading

import paramiko

from cumulus.errors import NodeUnreachable
from cumulus.nodes.connection import NodeConnection

_CHUNK = 2**16
_BEGIN_SECONDS = 30.0
_LOOK_SECONDS = 1.0


def relay(connection: NodeConnection, command: str) -> socket.socket:
    """The near end. When it is closed, or the command ends, so does the other; `connection` is closed then too. Raises
    `NodeUnreachable`."""
    near, far = socket.socketpair()
    begun = threading.Event()
    failures: list[Exception] = []

    def carry() -> None:
        try:
            with contextlib.closing(connection), far, connection.channel(command) as channel:
                begun.set()
                # So that who sends notices that nobody is at the near end any more.
                channel.settimeout(_LOOK_SECONDS)
                receiving = threading.Thread(target=_receive, args=(channel, far), name="relay-in", daemon=True)
                receiving.start()
                if _send(far, channel):
                    # The command's status may come before its last output is handed on.
                    receiving.join()
        except Exception as error:
            failures.append(error)
            begun.set()

    threading.Thread(target=carry, name="relay-out", daemon=True).start()
    if not begun.wait(_BEGIN_SECONDS):
        near.close()
        raise NodeUnreachable(f"{connection.node} does not begin a command within {_BEGIN_SECONDS:g} s")
    if failures:
        near.close()
        raise failures[0]
    return near


def _send(far: socket.socket, channel: paramiko.Channel) -> bool:
    """False where the near end was closed while the command took no more: it is told by the end of the connection."""
    with contextlib.suppress(OSError, EOFError):
        while data := far.recv(_CHUNK):
            view = memoryview(data)
            while view:
                try:
                    view = view[channel.send(view) :]
                except TimeoutError:
                    if _is_closed(far):
                        return False
    with contextlib.suppress(OSError, EOFError):
        channel.shutdown_write()
    return True


def _is_closed(far: socket.socket) -> bool:
    """Whether its other end is, and not for sending alone."""
    poll = select.poll()
    poll.register(far, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _receive(channel: paramiko.Channel, far: socket.socket) -> None:
    with contextlib.suppress(OSError, EOFError):
        while True:
            try:
                data = channel.recv(_CHUNK)
            except TimeoutError:
                continue
            if not data:
                break
            far.sendall(data)
    # Who sends learns of the end, and who receives too.
    with contextlib.suppress(OSError):
        far.shutdown(socket.SHUT_RDWR)
