"""A session: answers calls on its socket, one after another, in the process and the thread that made its state.

A thread for each connection takes what comes and sends what goes; only the calls themselves wait for each other.
"""

from __future__ import annotations

import hashlib
import queue
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from cumulus.calls.envelope import SOCKET
from cumulus.calls.outcome import Outcome
from cumulus.calls.session import CALL, CHUNK, CLOSE, LARGEST, OUTCOME, RESULT, read_chunks, read_head, write_frame
from cumulus.lib import unix_socket

_MOST_CONNECTIONS = 64


class _Call:
    """A payload that has come, and the answer that is waited for. Both are files in the call's directory."""

    def __init__(self, payload: BinaryIO, digest: str, result: BinaryIO) -> None:
        self.payload = payload
        self.digest = digest
        self.result = result
        self.outcome: Outcome | None = None
        self.answered = threading.Event()


def serve(directory: str, answer: Callable[[BinaryIO, str, BinaryIO], Outcome]) -> None:
    """Answer calls until somebody closes the session."""
    calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
    listener = unix_socket.listen(f"{directory}/{SOCKET}")
    threading.Thread(target=_accept, args=(listener, directory, calls), daemon=True).start()
    while True:
        call = calls.get()
        if call is None:
            return
        call.outcome = answer(call.payload, call.digest, call.result)
        call.answered.set()


def _accept(listener: socket.socket, directory: str, calls: queue.SimpleQueue[_Call | None]) -> None:
    room = threading.BoundedSemaphore(_MOST_CONNECTIONS)
    while True:
        room.acquire()
        connection, _ = listener.accept()
        threading.Thread(target=_talk, args=(connection, directory, calls, room), daemon=True).start()


def _talk(
    connection: socket.socket, directory: str, calls: queue.SimpleQueue[_Call | None], room: threading.Semaphore
) -> None:
    try:
        with (
            suppress(OSError, EOFError),
            connection,
            connection.makefile("rb") as read,
            connection.makefile("wb") as out,
        ):
            while _exchange(read, out, directory, calls):
                pass
    finally:
        room.release()


def _exchange(read: BinaryIO, out: BinaryIO, directory: str, calls: queue.SimpleQueue[_Call | None]) -> bool:
    """One frame and its answer. False: the other side is let go."""
    kind, size = read_head(read)
    if kind == CLOSE:
        calls.put(None)
    if kind != CALL or size > LARGEST:
        return False
    with tempfile.TemporaryFile(dir=directory) as payload, tempfile.TemporaryFile(dir=directory) as result:
        sha256 = hashlib.sha256()
        for chunk in read_chunks(read, size):
            sha256.update(chunk)
            payload.write(chunk)
        payload.seek(0)
        call = _Call(payload, sha256.hexdigest(), result)
        calls.put(call)
        call.answered.wait()
        assert call.outcome is not None
        head = call.outcome.to_json()
        write_frame(out, OUTCOME, len(head), [head])
        result.seek(0)
        write_frame(out, RESULT, call.outcome.result_size, iter(lambda: result.read(CHUNK), b""))
        out.flush()
    return True
