"""A channel to a program that runs on a node: frames over one pair of streams, between the daemon and the node.

The daemon has `chronos_cli channel` started on the node, over SSH or as its child. That says GREETING, and then

    daemon -> node   REQUEST  {"slot": NAME, "label": NAME=VALUE, and one of "exec": {…}, "attach": {…},
                     "feed": true, "connect": PORT}
    node -> daemon   STARTED, or REFUSED [name of the error, message]
    daemon -> node   STDIN, empty for its end; SIZE [columns, rows]; ALIVE now and then
    node -> daemon   STDOUT, STDERR, and at last ENDED [exit code or null, message]

A frame is a letter, the size of what follows in four bytes (big endian), and that. Whoever closes their end lets go of
the program, and so does a daemon that says nothing for a while. Standard library only.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any, NamedTuple

GREETING = b"cumulus-channel 1\n"
REQUEST, STDIN, SIZE, ALIVE = b"Q", b"I", b"W", b"A"
STARTED, REFUSED, STDOUT, STDERR, ENDED = b"S", b"R", b"O", b"E", b"X"
FULL = 2**18
"""Bytes that may wait for one side before the other one is read no further."""
CHUNK = 2**15
ALIVE_SECONDS, SILENT_SECONDS = 10.0, 60.0
"""How often the daemon says that it is there, and after what silence it is taken to be gone."""

_HEAD = struct.Struct(">cI")
_LARGEST = 2**21
_KINDS = frozenset((REQUEST, STDIN, SIZE, ALIVE, STARTED, REFUSED, STDOUT, STDERR, ENDED))


class Frame(NamedTuple):
    kind: bytes
    data: bytes

    def json(self) -> Any:
        """Raises ValueError."""
        return json.loads(self.data)


class ChannelError(Exception):
    """The other side says what is no frame; `said` is that."""

    def __init__(self, said: bytes) -> None:
        super().__init__("what was said is no frame")
        self.said = said


class Frames:
    """Frames over two descriptors, which may be the same. They are made not to block."""

    def __init__(self, source: int, sink: int) -> None:
        self.source, self.sink = source, sink
        self.ended = False
        """The other side has closed its end, or is gone."""
        self.waiting = bytearray()
        """What is yet to be sent."""
        self._come = bytearray()
        for descriptor in (source, sink):
            os.set_blocking(descriptor, False)

    def put(self, kind: bytes, data: bytes = b"") -> None:
        """Send a frame, as far as there is room: see `flush`."""
        self.waiting += _HEAD.pack(kind, len(data)) + data
        self.flush()

    def put_json(self, kind: bytes, document: Any) -> None:
        self.put(kind, json.dumps(document).encode())

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        try:
            while self.waiting:
                del self.waiting[: os.write(self.sink, self.waiting[:FULL])]
        except BlockingIOError:
            pass
        except OSError:
            # What it said before it went is still to be read.
            self.waiting.clear()

    def take(self) -> list[Frame]:
        """The frames that have come whole. Raises ChannelError."""
        self._read()
        found = []
        while len(self._come) >= _HEAD.size:
            kind, size = _HEAD.unpack_from(self._come)
            if kind not in _KINDS or size > _LARGEST:
                raise ChannelError(bytes(self._come))
            end = _HEAD.size + size
            if len(self._come) < end:
                break
            found.append(Frame(kind, bytes(self._come[_HEAD.size : end])))
            del self._come[:end]
        return found

    def greeted(self) -> bool:
        """Whether the greeting has come; what a log-in wrote before it is left out. Raises ChannelError where the other
        side ends, or says too much, without one."""
        self._read()
        before, greeting, after = bytes(self._come).partition(GREETING)
        if not greeting:
            if self.ended or len(before) > _LARGEST:
                raise ChannelError(before)
            return False
        self._come[:] = after
        return True

    def _read(self) -> None:
        try:
            data = os.read(self.source, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.ended = True
        self._come += data
