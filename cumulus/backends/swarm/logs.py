"""What a task wrote: read from the manager or the node's own engine, saved whole, followed.

Each frame of the stream (Docker's API, "Attach to a container": a byte for the stream, three of zero, four for the
size) is one message of the log driver, and begins with its time where times are asked for.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cumulus.backends.process.layout import LOG_PREFIX
from cumulus.backends.process.log import LogWriter, Redactor, read_log
from cumulus.backends.swarm.records import LOG_DONE, Record
from cumulus.clock import parse_timestamp
from cumulus.errors import BackendError

_SYSTEM = 3
"""The stream on which an engine tells its own errors (stdcopy.Systemerr of moby)."""

Fetch = Callable[[float], bytes]
"""Reads the multiplexed log from a time (seconds of the epoch) on."""


@dataclass(frozen=True, slots=True)
class Message:
    at: str
    text: bytes


def messages(stream: bytes) -> Iterator[Message]:
    """The messages of a multiplexed log with time stamps. A frame that was cut off is dropped.

    Raises `BackendError` at what the engine says of itself in the stream: that it could not get all of the log.
    """
    position = 0
    while position + 8 <= len(stream):
        (size,) = struct.unpack(">I", stream[position + 4 : position + 8])
        frame = stream[position + 8 : position + 8 + size]
        if len(frame) < size:
            return
        if stream[position] == _SYSTEM:
            raise BackendError(f"the log is not complete: {frame.decode(errors='replace').strip()[:200]}")
        at, _, text = frame.partition(b" ")
        yield Message(at.decode(errors="replace"), text)
        position += 8 + size


def check(stream: bytes) -> None:
    """Raises `BackendError` where the engine says that it could not get all of the log."""
    for _ in messages(stream):
        pass


class Reader:
    """Reads a log in steps: each gives what came since the last."""

    def __init__(self, fetch: Fetch, redactor: Redactor | None = None) -> None:
        self._fetch = fetch
        self._redactor = redactor or Redactor(())
        self._last = ""
        self._count = 0
        """How many messages of the time `_last` were given."""

    def step(self) -> bytes:
        fresh = []
        skip = self._count
        for message in messages(self._fetch(_epoch(self._last))):
            if message.at < self._last:
                continue
            if message.at == self._last and skip > 0:
                skip -= 1
                continue
            if message.at != self._last:
                self._last, self._count, skip = message.at, 0, 0
            self._count += 1
            fresh.append(message.text)
        return self._redactor.feed(b"".join(fresh))

    def flush(self) -> bytes:
        return self._redactor.flush()


def save(record: Record, fetch: Fetch, redactor: Redactor) -> None:
    """Write the whole log to the record, once."""
    if record.has(LOG_DONE):
        return
    reader = Reader(fetch, redactor)
    content = reader.step() + reader.flush()
    write(record, content)


def write(record: Record, content: bytes) -> None:
    """`content` as the whole of the log; one that was begun before a crash is written anew."""
    for name in os.listdir(record.directory):
        if name.startswith(LOG_PREFIX) and name != LOG_DONE:
            os.unlink(os.path.join(record.directory, name))
    writer = LogWriter(record.directory)
    writer.write(content)
    writer.close()
    record.write(LOG_DONE, {"bytes": len(content), "error": writer.error})


def saved(record: Record, tail: int | None) -> Iterator[bytes]:
    return read_log(record.directory, tail=tail, wait=lambda: None)


def last_lines(content: bytes, tail: int | None) -> bytes:
    """The last `tail` lines; all for None."""
    if tail is None:
        return content
    if tail <= 0:
        return b""
    lines: Sequence[bytes] = content.splitlines(keepends=True)
    return b"".join(lines[-tail:])


def _epoch(at: str) -> float:
    """Docker's `since` is inclusive; a microsecond less makes up for the digits that a float loses."""
    if not at:
        return 0.0
    head, _, rest = at.partition(".")
    return parse_timestamp(f"{head}Z").timestamp() + float(f"0.{rest.rstrip('Z')[:9] or '0'}") - 2e-6
