"""A session: answers calls on its socket, one after another, in the process and the thread that made its state.

A thread for each connection takes what comes and sends what goes; only the calls themselves wait for each other.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import io
import os
import queue
import socket
import stat
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO, cast

from cumulus.calls.envelope import SOCKET
from cumulus.calls.outcome import Outcome
from cumulus.calls.session import (
    CALL,
    CHUNK,
    CLOSE,
    KEPT,
    LARGEST,
    OUTCOME,
    RESULT,
    read_chunks,
    read_head,
    write_frame,
)
from cumulus.lib import unix_socket

_MOST_CONNECTIONS = 64
_SMALL = 2**20
_PRINT_SECONDS = 1.0
"""How long an answer waits at most for who reads what the call printed."""


class _Call:
    """A payload that has come, and the answer that is waited for. Both are files in the call's directory, unless they
    are small."""

    def __init__(self, payload: BinaryIO, digest: str, result: BinaryIO) -> None:
        self.payload = payload
        self.digest = digest
        self.result = result
        self.outcome: Outcome | None = None
        self.answered = threading.Event()
        self._reading = threading.Lock()

    def chunks(self) -> Iterator[bytes]:
        """The result; several threads may send it at once."""
        assert self.outcome is not None
        for at in range(0, self.outcome.result_size, CHUNK):
            with self._reading:
                self.result.seek(at)
                data = self.result.read(CHUNK)
            yield data


class _Calls:
    """The calls that came, in their order. One that comes again, after a connection was lost, is not run again: it gets
    the answer that it had. Each call's payload is its own, since its key is."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._kept: dict[str, _Call] = {}

    def add(self, payload: BinaryIO, digest: str) -> _Call:
        """The call to wait for."""
        with self._lock:
            found = self._kept.get(digest)
            if found is not None:
                payload.close()
                return found
            made = _Call(payload, digest, _file(self._directory))
            answered = [key for key, call in self._kept.items() if call.answered.is_set()]
            for key in answered[: max(len(answered) - KEPT, 0)]:
                del self._kept[key]
            self._kept[digest] = made
            self._queue.put(made)
            return made

    def close(self) -> None:
        """No more of them, once those that came are answered."""
        self._queue.put(None)

    def next(self) -> _Call | None:
        """Waits for it."""
        return self._queue.get()


def _file(directory: str) -> BinaryIO:
    """A new one without a name, which is in memory while it is small."""
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(_SMALL, dir=directory))


def serve(directory: str, answer: Callable[[BinaryIO, str, BinaryIO], Outcome]) -> None:
    """Answer calls until somebody closes the session."""
    calls = _Calls(directory)
    listener = unix_socket.listen(f"{directory}/{SOCKET}")
    threading.Thread(target=_accept, args=(listener, directory, calls), daemon=True).start()
    while True:
        call = calls.next()
        if call is None:
            return
        with call.payload:
            call.outcome = answer(call.payload, call.digest, call.result)
        _wait_until_read()
        call.answered.set()


def _wait_until_read() -> None:
    """Who has an answer may end the session at once: what was printed before is on its way to the log by then."""
    pipes = [output for output in (1, 2) if _is_pipe(output)]
    until = time.monotonic() + _PRINT_SECONDS
    left = array.array("i", [0])
    for pipe in pipes:
        while True:
            fcntl.ioctl(pipe, termios.FIONREAD, left)
            if not left[0] or time.monotonic() > until:
                break
            time.sleep(0.001)


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False  # The call closed it.


def _accept(listener: socket.socket, directory: str, calls: _Calls) -> None:
    room = threading.BoundedSemaphore(_MOST_CONNECTIONS)
    while True:
        room.acquire()
        connection, _ = listener.accept()
        threading.Thread(target=_talk, args=(connection, directory, calls, room), daemon=True).start()


def _talk(connection: socket.socket, directory: str, calls: _Calls, room: threading.Semaphore) -> None:
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


def _exchange(read: BinaryIO, out: BinaryIO, directory: str, calls: _Calls) -> bool:
    """One frame and its answer. False: the other side is let go."""
    kind, size = read_head(read)
    if kind == CLOSE:
        calls.close()
    if kind != CALL or size > LARGEST:
        return False
    payload: BinaryIO = io.BytesIO() if size <= _SMALL else _file(directory)
    try:
        sha256 = hashlib.sha256()
        for chunk in read_chunks(read, size):
            sha256.update(chunk)
            payload.write(chunk)
        payload.seek(0)
    except BaseException:
        payload.close()
        raise
    call = calls.add(payload, sha256.hexdigest())
    call.answered.wait()
    assert call.outcome is not None
    head = call.outcome.to_json()
    write_frame(out, OUTCOME, len(head), [head])
    write_frame(out, RESULT, call.outcome.result_size, call.chunks())
    out.flush()
    return True
