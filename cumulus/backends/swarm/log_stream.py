"""The log of a task as an engine streams it: split into messages, followed in steps, saved whole.

Each frame of the stream (Docker's API, "Attach to a container": a byte for the stream, three of zero, four for the
size) is one message of the log driver, and begins with its time where times are asked for.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby

from cumulus.backends.logs import DEFAULT_RETENTION, LogRetention, Stamper
from cumulus.backends.redactor import Redactor
from cumulus.backends.rundir.log import FileLog, retention_of
from cumulus.backends.rundir.log_times import TimedBytes
from cumulus.backends.swarm.records import LOG_DONE, Record
from cumulus.clock import parse_timestamp
from cumulus.errors import BackendError

_SYSTEM = 3
"""The stream on which an engine tells its own errors (stdcopy.Systemerr of moby)."""

_STAMP = re.compile(rb"(?=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z )")

OVERLAP = 2
"""Seconds by which a message may come late."""
HELD = 10_000
"""Messages that are held before the older ones are let go of, beside as many as then stay."""


class NotThereYet(BackendError):
    """A manager has not all of a log: as a rule while the node of it joins anew."""


Fetch = Callable[[float], bytes]
"""Reads the multiplexed log from a time (seconds of the epoch) on."""


@dataclass(frozen=True, slots=True)
class LogMessage:
    at: str
    text: bytes


def messages(stream: bytes) -> Iterator[LogMessage]:
    """The messages of a multiplexed log with time stamps. A frame that was cut off is dropped.

    Raises `NotThereYet` at what the engine says of itself in the stream: that it could not get all of the log.
    """
    position = 0
    while position + 8 <= len(stream):
        (size,) = struct.unpack(">I", stream[position + 4 : position + 8])
        frame = stream[position + 8 : position + 8 + size]
        if len(frame) < size:
            return
        if stream[position] == _SYSTEM:
            raise NotThereYet(f"the log is not complete: {frame.decode(errors='replace').strip()[:200]}")
        at, _, text = frame.partition(b" ")
        yield LogMessage(at.decode(errors="replace"), text)
        position += 8 + size


def framed(said: bytes) -> bytes:
    """The log of a program at a terminal, which has one stream, as the engine gives others."""
    parts = (part for part in _STAMP.split(said) if part)
    return b"".join(frame(1, part) for part in parts)


def frame(stream: int, content: bytes) -> bytes:
    """One message, as the engine gives it."""
    return struct.pack(">BxxxI", stream, len(content)) + content


def check(stream: bytes) -> None:
    """Raises `NotThereYet` where the engine says that it could not get all of the log."""
    for _ in messages(stream):
        pass


class StreamReader:
    """Reads a log in steps: each gives what came since the last.

    The driver takes down what came on two streams in any order, with the time of each, so that a message may appear
    behind a later one: each step reads the last seconds again, and gives what was not there.
    """

    def __init__(self, fetch: Fetch, redactor: Redactor | None = None) -> None:
        self._fetch = fetch
        self._redactor = redactor or Redactor(())
        self._newest = ""
        self._given: Counter[LogMessage] = Counter()
        """How often each message of the last seconds was given."""

    def step(self) -> bytes:
        return b"".join(data for _, data in self.timed())

    def timed(self) -> list[TimedBytes]:
        """As `step`, in pieces of one second each."""
        fresh: list[LogMessage] = []
        found: Counter[LogMessage] = Counter()
        room = HELD
        for message in messages(self._fetch(_epoch(_before(self._newest)))):
            found[message] += 1
            if found[message] > self._given[message]:
                fresh.append(message)
                self._newest = max(self._newest, message.at)
            if len(found) > room:
                found = _since(found, _before(self._newest))
                room = 2 * len(found) + HELD
        self._given = _since(self._given | found, _before(self._newest))
        seconds = groupby(fresh, lambda message: message.at[: len("2030-01-01T12:00:00")])
        pieces = ((_epoch(f"{at}Z"), b"".join(message.text for message in group)) for at, group in seconds)
        return [(at, data) for at, text in pieces if (data := self._redactor.feed(text))]

    def flush(self) -> bytes:
        return self._redactor.flush()


class LogSelection:
    """What of a log is shown, and how: see `logs.LogStore.read`. A message of the driver is at most one line."""

    def __init__(self, since: float | None, timestamps: bool) -> None:
        self._since = int(since or 0)
        self._stamper = Stamper() if timestamps else None

    def of(self, pieces: Sequence[TimedBytes]) -> bytes:
        stamper = self._stamper
        chosen = [(at, data) for at, data in pieces if at >= self._since]
        return b"".join(data if stamper is None else stamper.feed(at, data) for at, data in chosen)


def write(record: Record, content: Sequence[TimedBytes], retention: LogRetention = DEFAULT_RETENTION) -> None:
    """Make `content` the whole log, within `retention`. One that was begun before a crash is written anew."""
    log = FileLog(record.directory, retention)
    log.clear()
    writer = log.writer()
    for at, data in content:
        writer.append(data, at)
    writer.seal()
    record.write(
        LOG_DONE, {"bytes": sum(len(data) for _, data in content), "error": writer.error, "kept": list(retention)}
    )


def saved(
    record: Record, tail: int | None, since: float | None = None, *, timestamps: bool = False,
    position: int | None = None,
) -> Iterator[bytes]:  # fmt: skip
    log = FileLog(record.directory, retention_of(record.read(LOG_DONE) or {}))
    return log.read(tail=tail, since=since, timestamps=timestamps, position=position)


def from_position(chunks: Iterator[bytes], position: int) -> Iterator[bytes]:
    """Without the first bytes. Of an engine's log none are dropped before it is saved."""
    for chunk in chunks:
        known = min(position, len(chunk))
        position -= known
        yield chunk[known:]


def last_lines(content: bytes, tail: int | None) -> bytes:
    """The last `tail` lines; all for None."""
    if tail is None:
        return content
    if tail <= 0:
        return b""
    lines: Sequence[bytes] = content.splitlines(keepends=True)
    return b"".join(lines[-tail:])


def _since(counted: Counter[LogMessage], at: str) -> Counter[LogMessage]:
    return Counter({message: count for message, count in counted.items() if message.at >= at})


def _before(at: str) -> str:
    """The time at which the next step begins. Docker writes times with nine digits each, so that they sort as texts."""
    return f"{(parse_timestamp(at) - timedelta(seconds=OVERLAP)).isoformat()[:19]}.000000000Z" if at else ""


def _epoch(at: str) -> float:
    return parse_timestamp(at).timestamp() if at else 0.0
