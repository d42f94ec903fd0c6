"""The daemon's end of a channel to a program on a node: see `lib.run_channel`.

A thread carries what comes on the channel to pipes, and what comes in these to the channel, so that whoever talks to
the program has descriptors, as with a program of this machine.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from cumulus.errors import BackendError, CumulusError, NotRunning, UsageError
from cumulus.lib.execution import ALONE_SECONDS, ExecRequest, Exit
from cumulus.lib.printable import one_line
from cumulus.lib.run_channel import (
    ALIVE,
    ALIVE_SECONDS,
    CHUNK,
    ENDED,
    FULL,
    REFUSED,
    REQUEST,
    SIZE,
    STARTED,
    STDERR,
    STDIN,
    STDOUT,
    ChannelError,
    Frame,
    Frames,
)

_BEGIN_SECONDS = 30.0
"""For the node to begin what it is asked for."""
_LAST_SECONDS = 10.0
"""For a program to do what it was told last."""
_MOST_ASKED = 2**20
_GONE = Exit(None, "the connection to its node broke")
_UNKNOWN = "its node answers in a way unknown here"
_MALFORMED = (ValueError, TypeError, OverflowError, RecursionError)
"""What JSON that is not what it should be raises."""
_MOST_SAID = 1000
"""Characters of what a node says of an end."""


def execution(connection: socket.socket, whose: Mapping[str, str], asked: ExecRequest) -> ChannelExecution:
    """Have the node start a program. `connection` is a new channel; `whose` names the slot and a label of what it is to
    run beside. Raises `NotRunning`, `BackendError`."""
    frames, early = _begun(connection, {**whose, "exec": asked._asdict()})
    return ChannelExecution(connection, frames, early, stdin=asked.stdin, terminal=bool(asked.terminal))


def attachment(
    connection: socket.socket, whose: Mapping[str, str], *, stdin: bool, alone: float = ALONE_SECONDS
) -> ChannelExecution:
    """Join the terminal of the program itself, which goes on for `alone` seconds where nobody is there any more. Raises
    as `execution`."""
    frames, early = _begun(connection, {**whose, "attach": {"stdin": stdin, "alone": alone}})
    return ChannelExecution(connection, frames, early, stdin=stdin, terminal=True)


def feeding(connection: socket.socket, whose: Mapping[str, str]) -> ChannelExecution:
    """Give the program itself its input, where it waits for one. Raises as `execution`."""
    frames, early = _begun(connection, {**whose, "feed": True})
    return ChannelExecution(connection, frames, early, stdin=True, terminal=True)


def connected(connection: socket.socket, whose: Mapping[str, str], port: int) -> socket.socket:
    """A connection to a port at which a process of the slot listens. Raises as `execution`."""
    return _socket(connection, *_begun(connection, {**whose, "connect": port}))


def talk(connection: socket.socket, whose: Mapping[str, str], asked: ExecRequest) -> socket.socket:
    """A connection to the input and output of a program that the node starts. Where that is closed, the program has a
    moment to do what it was told last. Raises as `execution`."""
    return _socket(connection, *_begun(connection, {**whose, "exec": asked._asdict()}), patience=_LAST_SECONDS)


def _socket(
    connection: socket.socket, frames: Frames, early: list[Frame], *, patience: float = 0.0
) -> socket.socket:  # fmt: skip
    near, far = socket.socketpair()
    far.setblocking(False)
    sinks = {STDOUT: far.fileno()}
    _Carrier(connection, frames, early, far.fileno(), sinks, far.close, socket=True, patience=patience).start()
    return near


def _begun(connection: socket.socket, request: Mapping[str, Any]) -> tuple[Frames, list[Frame]]:
    """The channel once the node has begun, and what it has said since. It is closed where it has not."""
    frames, deadline = Frames(connection.fileno(), connection.fileno()), time.monotonic() + _BEGIN_SECONDS
    greeted = False
    try:
        if len(json.dumps(request)) > _MOST_ASKED:
            raise UsageError("the command is too long")
        while True:
            poll = select.poll()
            poll.register(connection, select.POLLIN | (select.POLLOUT if frames.waiting else 0))
            left = deadline - time.monotonic()
            ready = poll.poll(left * 1000) if left > 0 else []
            if not ready:
                raise BackendError(f"its node does not begin within {_BEGIN_SECONDS:g} s")
            frames.flush()
            if ready[0][1] == select.POLLOUT:
                continue
            if not greeted:
                greeted = frames.greeted()
                if greeted:
                    frames.put_json(REQUEST, request)
                continue
            come = frames.take()
            if come and come[0].kind == STARTED:
                return frames, come[1:]
            if come:
                raise _refusal(come[0])
            if frames.ended:
                raise BackendError("its node closed the connection")
    except ChannelError as error:
        connection.close()
        raise _not_understood(error.said) from None
    except BaseException:
        connection.close()
        raise


def _refusal(frame: Frame) -> CumulusError:
    try:
        kind, message = frame.json() if frame.kind == REFUSED else ("", _UNKNOWN)
    except _MALFORMED:
        kind, message = "", _UNKNOWN
    return (NotRunning if kind == NotRunning.__name__ else BackendError)(one_line(str(message)[:_MOST_SAID]))


def _not_understood(said: bytes) -> BackendError:
    lines = said.decode(errors="replace").strip().splitlines()
    return BackendError(
        f"nothing can be started beside programs of its node: {one_line(lines[-1])[:200] if lines else 'no word why'}",
        hint="install this version of Chronos: cumulus node setup NODE. It takes root, or sudo for all commands",
    )


class _Carrier:
    """Carries between the channel and the far ends of a program's streams: `source` gives what it reads (-1: nothing),
    `sinks` take what it writes; with `socket` they are one socket, and where its other end is closed the program has
    `patience` seconds. Once all is over it calls `close`, and closes the channel."""

    def __init__(
        self, connection: socket.socket, frames: Frames, early: list[Frame], source: int, sinks: Mapping[bytes, int],
        close: Callable[[], object], *, socket: bool = False, patience: float = 0.0,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._frames = frames
        self._early = early
        self._source = source
        self._sinks = dict(sinks)
        self._close = close
        self._socket = source if socket else -1
        self._patience = patience
        self._until = math.inf
        """When the other side is let go of, where nobody is there any more who talks to it."""
        self._shown: dict[bytes, bytearray] = {kind: bytearray() for kind in sinks}
        self._said = 0.0
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._lock = threading.Lock()
        self._size: tuple[int, int] | None = None
        self._over = False
        self._let_go = False
        self.exit = _GONE

    def start(self) -> None:
        threading.Thread(target=self._run, name="run-channel", daemon=True).start()

    def resize(self, columns: int, rows: int) -> None:
        self._size = (columns, rows)
        self._poke()

    def let_go(self) -> None:
        """The one who talks to the program is gone."""
        self._let_go = True
        self._poke()

    def _poke(self) -> None:
        with self._lock:
            if not self._over:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake, b".")

    def _run(self) -> None:
        try:
            for frame in self._early:
                self._hear(frame)
            while not self._ended():
                self._step()
        except (OSError, ChannelError, *_MALFORMED):
            pass
        finally:
            with self._lock:
                self._over = True
                os.close(self._wake)
            os.close(self._woken)
            self._close()
            self._connection.close()

    def _ended(self) -> bool:
        if time.monotonic() >= self._until:
            return True
        return self._let_go or (self._frames.ended and not any(self._shown.values()))

    def _step(self) -> None:
        frames = self._frames
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        events = {} if frames.ended else {frames.source: 0}
        if not frames.ended and not any(len(waits) > FULL for waits in self._shown.values()):
            events[frames.source] |= select.POLLIN
        if frames.waiting and not frames.ended:
            events[frames.source] |= select.POLLOUT
        if self._socket >= 0:
            # Told too that its other end is closed altogether.
            events[self._socket] = 0
        if self._source >= 0 and len(frames.waiting) < FULL:
            events[self._source] = select.POLLIN
        for kind, sink in self._sinks.items():
            if self._shown[kind]:
                events[sink] = events.get(sink, 0) | select.POLLOUT
        for descriptor, wanted in events.items():
            poll.register(descriptor, wanted)
        now = time.monotonic()
        ready = dict(poll.poll(max(0.0, min(self._said + ALIVE_SECONDS, self._until) - now) * 1000))
        if self._woken in ready:
            os.read(self._woken, CHUNK)
        if self._size is not None:
            size, self._size = self._size, None
            frames.put_json(SIZE, size)
        if time.monotonic() >= self._said + ALIVE_SECONDS:
            self._said = time.monotonic()
            frames.put(ALIVE)
        if frames.source in ready and not frames.ended:
            frames.flush()
            if ready[frames.source] & ~select.POLLOUT:
                for frame in frames.take():
                    self._hear(frame)
        if self._source in ready and ready[self._source] & ~select.POLLOUT:
            self._listen()
        if self._source < 0 and ready.get(self._socket, 0) & select.POLLHUP and not frames.waiting:
            self._socket, self._until = -1, time.monotonic() + self._patience
            self._sinks.clear()
            self._shown.clear()
        for kind in list(self._sinks):
            self._show(kind)

    def _hear(self, frame: Frame) -> None:
        if frame.kind in self._shown and frame.kind in self._sinks:
            self._shown[frame.kind] += frame.data
        elif frame.kind == ENDED:
            code, message = frame.json()
            self.exit = Exit(None if code is None else int(code), one_line(str(message)[:_MOST_SAID]))
            self._frames.ended = True

    def _listen(self) -> None:
        try:
            data = os.read(self._source, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data and self._let_go:
            # It was closed here, which says nothing of an end of the input.
            return
        self._frames.put(STDIN, data)
        if not data:
            self._source = -1

    def _show(self, kind: bytes) -> None:
        waits = self._shown[kind]
        try:
            while waits:
                del waits[: os.write(self._sinks[kind], waits[:CHUNK])]
        except BlockingIOError:
            pass
        except OSError:
            # Nobody looks any more: the program may go on all the same.
            waits.clear()
            del self._sinks[kind]


class ChannelExecution:
    """See `lib.execution.Execution`."""

    def __init__(
        self, connection: socket.socket, frames: Frames, early: list[Frame], *, stdin: bool, terminal: bool
    ) -> None:
        ends: list[int] = []

        def pipe() -> tuple[int, int]:
            made = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            ends.extend(made)
            return made

        try:
            read, self.stdin = pipe() if stdin else (-1, -1)
            self.stdout, write = pipe()
            self.stderr, errors = (-1, -1) if terminal else pipe()
            self.done, end = pipe()
        except OSError as error:
            for descriptor in ends:
                os.close(descriptor)
            connection.close()
            raise BackendError(f"its streams cannot be made here: {error.strerror}") from error
        far = [descriptor for descriptor in (read, write, errors, end) if descriptor >= 0]
        sinks = {STDOUT: write} | ({} if terminal else {STDERR: errors})

        def close() -> None:
            for descriptor in far:
                os.close(descriptor)

        self._carrier = _Carrier(connection, frames, early, read, sinks, close)
        self._carrier.start()

    def exit(self) -> Exit:
        return self._carrier.exit

    def resize(self, columns: int, rows: int) -> None:
        self._carrier.resize(columns, rows)

    def close_stdin(self) -> None:
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def close(self) -> None:
        self._carrier.let_go()
        for descriptor in {self.stdin, self.stdout, self.stderr, self.done} - {-1}:
            os.close(descriptor)
        self.stdin = self.stdout = self.stderr = self.done = -1
