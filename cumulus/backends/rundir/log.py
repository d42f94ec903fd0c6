"""`LogStore` in the directory of a run, one file a segment.

    log.000000000000000        the first bytes
    log.000000012582912        segments, each named by the offset of its first byte; those from the middle go
    log.000000016777216        first, when none of their bytes is among the last ones any more

A reader of a log that has ended is given exactly what its retention says. When the bytes were written: see
`log_times`. Standard library only.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, NamedTuple

from cumulus.backends.logs import DEFAULT_RETENTION, Gap, LogRetention, Stamper, gap_line
from cumulus.backends.redactor import Redactor
from cumulus.backends.rundir import log_times
from cumulus.backends.rundir.log_times import Times, TimesWriter
from cumulus.clock import SystemClock
from cumulus.errors import UsageError

_CHUNK = 64 * 1024
_SEGMENTS = 14
"""Into which the last bytes are cut. The disk holds up to one more than is kept; two where they are no equal parts."""

_PREFIX = "log."
_NAME = re.compile(re.escape(_PREFIX) + r"(\d+)")


def retention_of(document: dict[str, Any]) -> LogRetention:
    """What a run's writer was told, as the run's files say; the default where they are older than that."""
    return LogRetention(*document.get("kept", DEFAULT_RETENTION))


def _segment(retention: LogRetention) -> int:
    """Bytes of a segment after the first."""
    return max(1, -(-retention.last // _SEGMENTS))


class FileLog:
    """`LogStore`: the log in `directory`, of which its writer keeps as much as `retention` says."""

    def __init__(self, directory: str, retention: LogRetention = DEFAULT_RETENTION) -> None:
        self._directory = directory
        self._retention = retention

    def writer(self, secrets: Sequence[str] = ()) -> _Writer:
        """See `LogStore.writer`. At most one at a time."""
        return _Writer(self._directory, self._retention, secrets)

    def read(
        self, *, tail: int | None = None, since: float | None = None, timestamps: bool = False,
        position: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """See `LogStore.read`."""
        return self._chunks(lambda: True, lambda: None, tail, since, timestamps, position)

    def follow(
        self, ended: Callable[[], bool], wait: Callable[[], None], *,
        tail: int | None = None, since: float | None = None, timestamps: bool = False, position: int | None = None,
    ) -> Iterator[bytes]:  # fmt: skip
        """See `LogStore.follow`. A reader that follows is given all that is still there when it looks, also what the
        retention would drop."""
        return self._chunks(ended, wait, tail, since, timestamps, position)

    def clear(self) -> None:
        """Delete what is there: a log that was begun before a crash is written anew."""
        for _, path in _segments(self._directory):
            os.unlink(path)
            log_times.forget(path)

    def _chunks(
        self, ended: Callable[[], bool], wait: Callable[[], None], tail: int | None, since: float | None,
        timestamps: bool, begin: int | None,
    ) -> Iterator[bytes]:  # fmt: skip
        position: int | None = None
        times, stamper = Times(), Stamper() if timestamps else None
        while True:
            # Asked before reading: what was written before the end is then read in this round.
            last_round = ended()
            with ExitStack() as opened:
                parts = _open_parts(self._directory, position or 0, opened)
                if position is None:
                    parts = _only_kept(parts, self._retention)
                    if (timestamps or since is not None) and parts and not times.of(parts[0].path)[0]:
                        raise UsageError("this log has no times: an older version wrote it")
                    position = (begin or 0) if tail is None else _tail_position(parts, tail)
                    if since is not None:
                        position = max(position, _since_position(parts, times, since))
                for part in parts:
                    if part.end <= position:
                        continue
                    if part.start > position:
                        gap = Gap.of(part.start - position)
                        yield gap if stamper is None else _stamped(stamper, times.timed(part.path, part.start, gap))
                        position = part.start
                    for chunk in part.read(position):
                        yield chunk if stamper is None else _stamped(stamper, times.timed(part.path, position, chunk))
                        position += len(chunk)
            if last_round:
                return
            yield b""
            wait()


class _Writer:
    """See `LogWriter`."""

    def __init__(self, directory: str, retention: LogRetention, secrets: Sequence[str]) -> None:
        self.error = ""
        self._directory = directory
        self._retention = retention
        self._redactor = Redactor(secrets)
        self._clock = SystemClock()
        self._at: float | None = None
        """When what is appended was written, where that is not now."""
        self._times = TimesWriter()
        self._segment = ""
        self._descriptor = -1
        self._left = 0
        self._next = 0
        self._missing = 0
        """Bytes that could not be written, with nothing written since."""
        self._why = ""

    @property
    def holding(self) -> bool:
        return self._redactor.holding

    def append(self, data: bytes, at: float | None = None) -> None:
        self._at = at
        self._write(self._redactor.feed(data))

    def flush(self) -> None:
        self._write(self._redactor.flush())

    def _write(self, data: bytes) -> None:
        if self._missing and self._put(gap_line(self._missing, self._why)):
            self._missing += len(data)
            return
        self._missing = self._put(data)

    def _put(self, data: bytes) -> int:
        """How many bytes of `data` could not be written."""
        view = memoryview(data)
        try:
            while view:
                if self._left == 0:
                    self._open()
                self._times.note(self._segment, self._next, self._now())
                written = os.write(self._descriptor, view[: self._left])
                view = view[written:]
                self._left -= written
                self._next += written
        except OSError as error:
            self._lost(error)
        return len(view)

    def _now(self) -> float:
        return self._clock.now().timestamp() if self._at is None else self._at

    def seal(self) -> None:
        self.flush()
        if self._missing:
            self._put(gap_line(self._missing, self._why))
        if self._descriptor >= 0:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self._lost(error)
            os.close(self._descriptor)
            self._descriptor = -1

    def _lost(self, error: OSError) -> None:
        self._why = error.strerror or str(error)
        self.error = self.error or f"its log could not be written: {self._why}"

    def _open(self) -> None:
        path = os.path.join(self._directory, f"{_PREFIX}{self._next:015d}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._left = descriptor, _segment(self._retention) if self._next else self._retention.first
        self._segment = path
        for start, unwanted in _segments(self._directory):
            if 0 < start <= self._next - self._retention.last - _segment(self._retention):
                os.unlink(unwanted)
                log_times.forget(unwanted)


class _Part(NamedTuple):
    """The bytes from `start` to `end` of a log, in an open file whose first byte is the log's `first`."""

    descriptor: int
    path: str
    first: int
    start: int
    end: int

    def read(self, position: int) -> Iterator[bytes]:
        while position < self.end:
            data = os.pread(self.descriptor, min(_CHUNK, self.end - position), position - self.first)
            if not data:
                return
            position += len(data)
            yield data


def _open_parts(directory: str, position: int, opened: ExitStack) -> Sequence[_Part]:
    """Every segment with bytes from `position` on. Being open they can be read, also when the writer deletes them."""
    while True:
        parts = []
        segments = _segments(directory)
        try:
            for (start, path), (after, _) in pairwise([*segments, (sys.maxsize, "")]):
                if after > position:
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    opened.callback(os.close, descriptor)
                    parts.append(_Part(descriptor, path, start, start, start + os.fstat(descriptor).st_size))
        except FileNotFoundError:
            continue  # Deleted by the writer since it was listed: what is there now has a longer gap.
        return parts


def _only_kept(parts: Sequence[_Part], retention: LogRetention) -> Sequence[_Part]:
    """Without what is on the disk still, since its segment holds some of the last bytes too."""
    end = parts[-1].end if parts else 0
    last = max(end - retention.last, 0)
    shown = [part if part.start < retention.first else part._replace(start=max(part.start, last)) for part in parts]
    return [part for part in shown if part.start < part.end]


def _tail_position(parts: Sequence[_Part], lines: int) -> int:
    """The position from which `lines` lines follow."""
    if not parts:
        return 0
    needed = lines
    end = parts[-1].end
    if lines <= 0:
        return end
    for part in reversed(parts):
        stop = part.end
        while stop > part.start:
            begin = max(part.start, stop - _CHUNK)
            block = os.pread(part.descriptor, stop - begin, begin - part.first)
            # A newline at the very end closes the last line, it begins none.
            search = len(block) - 1 if stop == end else len(block)
            while (found := block.rfind(b"\n", 0, search)) >= 0:
                needed -= 1
                if needed == 0:
                    return begin + found + 1
                search = found
            stop = begin
    return parts[0].start


def _since_position(parts: Sequence[_Part], times: Times, since: float) -> int:
    """Where the first line begins that was begun then or later."""
    for part in parts:
        found = times.first(part.path, since)
        if found is not None:
            return _line_start(parts, max(found, part.start))
    return parts[-1].end if parts else 0


def _line_start(parts: Sequence[_Part], position: int) -> int:
    """The first byte from `position` on that begins a line: what goes on there was begun before."""
    before = next((part for part in parts if part.start < position <= part.end), None)
    if before is None or os.pread(before.descriptor, 1, position - 1 - before.first) == b"\n":
        return position
    for part in parts:
        if part.start > position:
            # Behind a gap, which ends the line.
            return position
        for chunk in part.read(position) if part.end > position else ():
            if (found := chunk.find(b"\n")) >= 0:
                return position + found + 1
            position += len(chunk)
    return position


def _stamped(stamper: Stamper, pieces: Iterator[log_times.TimedBytes]) -> bytes:
    return b"".join(stamper.feed(at, data) for at, data in pieces)


def _segments(directory: str) -> list[tuple[int, str]]:
    """(offset, path) of the segments, in order."""
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        entries = []  # Purged meanwhile.
    named = ((_NAME.fullmatch(entry), entry) for entry in entries)
    return sorted((int(match[1]), os.path.join(directory, entry)) for match, entry in named if match)
