"""Unix sockets by path, also where the path is longer than the kernel takes. Standard library only."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


def connect(path: str, timeout: float | None = None) -> socket.socket:
    """A connection to the socket at `path`. Raises OSError; TimeoutError where the other side is too busy."""
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "this system has no Unix sockets", path)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(timeout)
        with short(path) as address:
            made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def listen(path: str, mode: int = 0o600, backlog: int = 1024) -> socket.socket:
    """A socket that listens at `path`, in the place of whatever was there, and never wider open than `mode`.

    Raises OSError."""
    made = socket.socket(socket.AF_UNIX)
    try:
        # Linux gives the file the mode of the socket, less the umask, which is the whole process's and stays as it is.
        os.fchmod(made.fileno(), mode)
        with short(path) as address:
            temporary = f"{address}.{os.getpid()}"
            # What a process of the same id left behind.
            if os.path.lexists(temporary):
                os.unlink(temporary)
            made.bind(temporary)
            os.chmod(temporary, mode)
            made.listen(backlog)
            os.rename(temporary, address)
    except BaseException:
        made.close()
        raise
    return made


def answers(path: str) -> bool | None:
    """Whether a process listens at `path`: None where there is no socket, False where its owner is dead. Raises OSError
    where this process may not ask."""
    try:
        # Without waiting: one whose queue is full is alive.
        connect(path, 0).close()
    except BlockingIOError:
        return True
    except ConnectionRefusedError:
        return False
    except (FileNotFoundError, NotADirectoryError):
        return None
    return True


class Peer(NamedTuple):
    """The process at the other end of a socket, as the kernel says it was when it connected, or began to listen."""

    pid: int
    uid: int
    gid: int


def peer(connection: socket.socket) -> Peer:
    """Raises OSError."""
    return Peer(*_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


def listener(path: str) -> int:
    """The pid of the process that listens at `path`. Raises OSError."""
    with connect(path, 0) as made:
        return peer(made).pid


@contextmanager
def short(path: str) -> Iterator[str]:
    """A path of less than 108 bytes to the same name."""
    if sys.platform != "linux":
        yield path
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


_CREDENTIALS = struct.Struct("iII")
"""Linux's struct ucred."""
