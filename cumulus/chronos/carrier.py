"""Carries bytes between a controller's frames and a socket on the node: a program's streams, or a port."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

from cumulus.lib.run_channel import CHUNK, FULL, SILENT_SECONDS, SIZE, STDERR, STDIN, STDOUT, Frames

DRAIN_SECONDS, _DRAIN_MOST = 2.0, 2**24
"""For what a program that has ended wrote last: without a byte, and bytes. Pipes and the engine hold less."""
_HEAD = struct.Struct(">BxxxI")

GONE, OVER, LEFT = "the controller has gone", "nothing more comes", "the program has ended"
DETACHED = "who typed has detached"


class Carrier:
    """Carries what comes in frames to a socket, and what comes from there in frames. `apart`: it gives two streams, as
    the engine packs them; `resize` is told of other sizes, `end_of_input` called where the socket is not to be shut. At
    the keys `leave` whoever types them is let go."""

    def __init__(
        self, frames: Frames, far: socket.socket, *, apart: bool = False,
        resize: Callable[[int, int], None] = lambda columns, rows: None,
        end_of_input: Callable[[], object] | None = None, leave: bytes = b"",
    ) -> None:  # fmt: skip
        self._leave = leave
        self._held = b""
        """The first of those keys, if it was typed last."""
        self._left = False
        self._frames = frames
        self._far = far
        self._apart = apart
        self._resize = resize
        self._end_of_input = end_of_input
        self._typed = bytearray()
        self._packed = bytearray()
        self._no_more = False
        self._carried = 0
        """Bytes that came from the far side."""
        self._heard = time.monotonic()
        far.setblocking(False)

    def run(self, watched: int = -1) -> str:
        """Until `watched` is readable, or one of the two sides has ended: which of them."""
        return self._run(watched, drains=False)

    def drain(self) -> None:
        """Carry what the far side has written, which has ended, however slowly the other one takes it."""
        self._run(-1, drains=True)

    def _run(self, watched: int, *, drains: bool) -> str:
        frames, last, most = self._frames, time.monotonic(), self._carried + _DRAIN_MOST
        while not (drains and (time.monotonic() > last + DRAIN_SECONDS or self._carried > most)):
            if frames.ended:
                return GONE
            listens = len(self._typed) < FULL
            poll = select.poll()
            # Also where nothing is read: whether the other side is gone.
            poll.register(frames.source, select.POLLIN if listens else 0)
            if frames.waiting:
                poll.register(frames.sink, select.POLLOUT)
            far = (select.POLLIN if len(frames.waiting) < FULL else 0) | (select.POLLOUT if self._typed else 0)
            if far:
                poll.register(self._far, far)
            if watched >= 0:
                poll.register(watched, select.POLLIN)
            ready = dict(poll.poll(1000))
            if not far & select.POLLIN:
                last = time.monotonic()
            if listens and time.monotonic() - self._heard > SILENT_SECONDS:
                return GONE
            if frames.sink in ready:
                frames.flush()
            if ready.get(frames.source, 0) & select.POLLIN:
                self._listen()
            elif frames.source in ready:
                return GONE
            self._type()
            if self._left:
                return DETACHED
            if ready.get(self._far.fileno(), 0) & ~select.POLLOUT:
                last = time.monotonic()
                if not self._show():
                    return OVER
            if watched in ready:
                return LEFT
        return OVER

    def _listen(self) -> None:
        self._heard = time.monotonic()
        for frame in self._frames.take():
            if frame.kind == STDIN and frame.data:
                self._typed += self._without_keys(frame.data) if self._leave else frame.data
            elif frame.kind == STDIN:
                self._no_more = True
            elif frame.kind == SIZE:
                columns, rows = frame.json()
                self._resize(int(columns), int(rows))

    def _without_keys(self, data: bytes) -> bytes:
        typed, keys, _ = (self._held + data).partition(self._leave)
        self._left = self._left or bool(keys)
        self._held = self._leave[:1] if not keys and typed.endswith(self._leave[:1]) else b""
        return typed.removesuffix(self._held)

    def _type(self) -> None:
        try:
            while self._typed:
                del self._typed[: self._far.send(self._typed[:CHUNK])]
        except BlockingIOError:
            return
        except OSError:
            # Nobody reads it any more: what it writes may still come.
            self._typed.clear()
        if self._no_more:
            self._no_more = False
            with contextlib.suppress(OSError):
                if self._end_of_input is None:
                    self._far.shutdown(socket.SHUT_WR)
                else:
                    self._end_of_input()

    def _show(self) -> bool:
        """False where nothing more comes."""
        try:
            data = self._far.recv(CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        self._carried += len(data)
        if not self._apart:
            if data:
                self._frames.put(STDOUT, data)
            return data != b""
        self._packed += data
        for stream, content in unpacked(self._packed):
            self._frames.put(STDERR if stream == 2 else STDOUT, content)
        return data != b""


def unpacked(packed: bytearray) -> Iterator[tuple[int, bytes]]:
    """The streams that the engine packed into one, as far as they have come; they are taken away."""
    while len(packed) >= _HEAD.size:
        stream, size = _HEAD.unpack_from(packed)
        if len(packed) < _HEAD.size + size:
            return
        content = bytes(packed[_HEAD.size : _HEAD.size + size])
        del packed[: _HEAD.size + size]
        if content:
            yield stream, content
