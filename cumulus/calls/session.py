"""Calls in a session: the frames on its socket, and the client's side of them.

The runner listens at `envelope.SOCKET` in the call's directory, once the session's own call has returned. Any number of
connections may be open; their calls run one after another, in the order in which they came whole. A frame is a letter,
the size of what follows in eight bytes (big endian), and that:

    C payload   ->   O outcome.json, then R result (empty where there is none)
    X (empty)   ->   nothing: the calls that came before are answered, then the session ends

Who sends anything else, or breaks off within a frame, is let go. A call whose connection is gone runs to its end.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from cumulus.calls import documents
from cumulus.calls.envelope import LARGEST as LARGEST
from cumulus.calls.envelope import SOCKET
from cumulus.calls.outcome import OF_RUNNER, Outcome
from cumulus.lib import unix_socket

CALL, CLOSE, OUTCOME, RESULT = b"C", b"X", b"O", b"R"
CONNECTED = b"+"
"""What a relay says first, before it carries frames."""
CHUNK = 2**20
KEPT = 16
"""How many answers a session keeps, for a client that lost them. One that wants nothing to run twice has fewer calls
under way."""

_HEAD = struct.Struct(">cQ")


class SessionEnded(Exception):
    """The session is over, or was never there: the message says which."""


class SessionConnection:
    """A connection to a session, for one thread. Each method raises SessionEnded, and OSError with a timeout."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def call(self, size: int, payload: Iterable[bytes]) -> tuple[Outcome, int, Iterator[bytes]]:
        """Have a payload of `size` bytes called: what came of it, the size of the result in bytes and its chunks, which
        are to be read to their end before the next call. Raises ValueError where the answer is none: it comes from the
        caller's own process, which can write what it likes."""
        told, length, result = self.exchange(size, payload)
        outcome = Outcome.read(told, OF_RUNNER)
        if length != outcome.result_size:
            raise ValueError("the session's answer is not as long as it says")
        return outcome, length, result

    def exchange(self, size: int, payload: Iterable[bytes]) -> tuple[bytes, int, Iterator[bytes]]:
        """As `call`, for who hands the answer on: what is in the place of the outcome is not looked at."""
        try:
            chunks = iter(payload)
            # At once, so that who reads is woken once.
            self._connection.sendall(_HEAD.pack(CALL, size) + next(chunks, b""))
            for chunk in chunks:
                self._connection.sendall(chunk)
            told = b"".join(self._part(OUTCOME, documents.LARGEST)[1])
            length, result = self._part(RESULT, LARGEST)
        except (BrokenPipeError, ConnectionResetError, EOFError):
            raise SessionEnded("the session has ended") from None
        return told, length, result

    def close_session(self) -> None:
        """Have the session end, once the calls before this are answered."""
        try:
            self._connection.sendall(_HEAD.pack(CLOSE, 0))
        except (BrokenPipeError, ConnectionResetError):
            raise SessionEnded("the session has ended") from None

    def abort(self) -> None:
        """End the connection while another thread waits for it, which gets a SessionEnded; the session goes on."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the session goes on."""
        self._file.close()
        self._connection.close()

    def _part(self, wanted: bytes, largest: int) -> tuple[int, Iterator[bytes]]:
        kind, size = read_head(self._file)
        if kind != wanted or size > largest:
            raise ValueError("what the session answered is no frame")
        return size, read_chunks(self._file, size)


def connect(directory: str, uid: int | None = None, timeout: float | None = None) -> SessionConnection:
    """A connection to the session whose call's directory that is. Raises SessionEnded where nobody listens there.

    `uid`: whom its process runs as. Nothing is sent to a process of anybody else: whoever may write in the directory
    can put a link to another socket there."""
    try:
        made = unix_socket.connect(os.path.join(directory, SOCKET), timeout)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise SessionEnded("the session has not begun, or has ended") from None
    if uid is not None and unix_socket.peer(made).uid != uid:
        made.close()
        raise SessionEnded("another user's process listens in the place of the session")
    return SessionConnection(made)


def relayed(connection: socket.socket, timeout: float = 60.0) -> SessionConnection:
    """A connection through a relay (`cumulus.runner.relay`). Raises SessionEnded where nobody listens behind it."""
    connection.settimeout(timeout)
    try:
        said = connection.recv(len(CONNECTED))
    except OSError:
        said = b""
    if said != CONNECTED:
        connection.close()
        raise SessionEnded("the session has not begun, or has ended")
    connection.settimeout(None)
    return SessionConnection(connection)


def write_frame(file: BinaryIO, kind: bytes, size: int, chunks: Iterable[bytes]) -> None:
    """Send a frame and what follows it."""
    file.write(_HEAD.pack(kind, size))
    for chunk in chunks:
        file.write(chunk)


def read_head(file: BinaryIO) -> tuple[bytes, int]:
    """The letter and the size of the next frame. Raises EOFError."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise EOFError
    kind, size = _HEAD.unpack(head)
    return kind, size


def read_chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """What follows a head. Raises EOFError where it breaks off."""
    while size:
        data = file.read(min(size, CHUNK))
        if not data:
            raise EOFError
        size -= len(data)
        yield data
