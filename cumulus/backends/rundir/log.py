"""The log of a run: its beginning and its end are kept, what a long one has between them is dropped.

    log.000000000000000        the first bytes
    log.000000012582912        segments, each named by the offset of its first byte; those from the middle go
    log.000000016777216        first, when none of their bytes is among the last ones any more

The first lines say how the program began, the last ones how it ended. A reader is given exactly `Kept` of both, and
between them a line that says how many bytes are missing. Standard library only.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, NamedTuple

from cumulus.backends.rundir.layout import LOG_PREFIX

_CHUNK = 64 * 1024
_SEGMENTS = 14
"""Into which the last bytes are cut. The disk holds up to one more than is kept; two where they are no equal parts."""

_NAME = re.compile(re.escape(LOG_PREFIX) + r"(\d+)")


class Kept(NamedTuple):
    """How many bytes of a log are kept: the first ones and the last ones."""

    first: int = 8 * 2**20
    last: int = 56 * 2**20

    @property
    def segment(self) -> int:
        """Bytes of a segment after the first."""
        return max(1, -(-self.last // _SEGMENTS))


KEPT = Kept()


def kept_of(document: dict[str, Any]) -> Kept:
    """What a run's writer was told, as the run's files say; the default where they are older than that."""
    return Kept(*document.get("kept", KEPT))


class LogWriter:
    """Appends to the log in `directory`; at most one writer at a time. Never raises: `error` says what it lost."""

    def __init__(self, directory: str, kept: Kept = KEPT) -> None:
        self.error = ""
        self._directory = directory
        self._kept = kept
        self._descriptor = -1
        self._left = 0
        self._next = 0
        self._missing = 0
        """Bytes that could not be written, with nothing written since."""
        self._why = ""

    def write(self, data: bytes) -> None:
        """Append `data`. What cannot be written (full disk) is dropped, a line in its place, and the job goes on."""
        if self._missing and self._append(_gap(self._missing, self._why)):
            self._missing += len(data)
            return
        self._missing = self._append(data)

    def _append(self, data: bytes) -> int:
        """How many bytes of `data` could not be written."""
        view = memoryview(data)
        try:
            while view:
                if self._left == 0:
                    self._open()
                written = os.write(self._descriptor, view[: self._left])
                view = view[written:]
                self._left -= written
                self._next += written
        except OSError as error:
            self._lost(error)
        return len(view)

    def close(self) -> None:
        """Make the last segment durable."""
        if self._missing:
            self._append(_gap(self._missing, self._why))
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
        path = os.path.join(self._directory, f"{LOG_PREFIX}{self._next:015d}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._left = descriptor, self._kept.segment if self._next else self._kept.first
        for start, unwanted in _segments(self._directory):
            if 0 < start <= self._next - self._kept.last - self._kept.segment:
                os.unlink(unwanted)


class Redactor:
    """Replaces secret values in a stream of bytes, also where a value is cut by the end of a chunk.

    Guards against the slip of printing an environment, not against a program that encodes its secrets.
    """

    MARK = b"[secret]"
    SHORTEST = 4
    """Shorter values are left alone: they would be found everywhere."""

    def __init__(self, values: Sequence[str]) -> None:
        encoded = {v.encode("utf-8", "surrogateescape") for v in values}
        self._values = sorted((v for v in encoded if len(v) >= self.SHORTEST), key=len, reverse=True)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may be written of all that was fed so far."""
        if not self._values:
            return data
        data = self._held + data
        for value in self._values:
            data = data.replace(value, self.MARK)
        hold = max(_overlap(data, value) for value in self._values)
        self._held = data[len(data) - hold :]
        return data[: len(data) - hold]

    def text(self, text: str) -> str:
        """A whole text, such as a message about the job."""
        return (self.feed(text.encode("utf-8", "surrogateescape")) + self.flush()).decode("utf-8", "surrogateescape")

    @property
    def holding(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def flush(self) -> bytes:
        """What was held back: the stream paused or ended."""
        held, self._held = self._held, b""
        return held


def read_log(
    directory: str,
    *,
    kept: Kept = KEPT,
    tail: int | None = None,
    ended: Callable[[], bool] | None = None,
    wait: Callable[[], None],
) -> Iterator[bytes]:
    """The log's chunks, from the last `tail` lines where given. With `ended`, follows until it returns True.

    `kept` is what its writer keeps. A reader that follows is given all that is still there when it looks, so that it
    misses something only where the program writes faster than it reads."""
    position: int | None = None
    while True:
        # Asked before reading: what was written before the end is then read in this round.
        last_round = ended is None or ended()
        with ExitStack() as opened:
            parts = _open_parts(directory, position or 0, opened)
            if position is None:
                parts = _only_kept(parts, kept)
                position = 0 if tail is None else _tail_position(parts, tail)
            for part in parts:
                if part.end <= position:
                    continue
                if part.start > position:
                    yield _gap(part.start - position)
                    position = part.start
                for chunk in part.read(position):
                    position += len(chunk)
                    yield chunk
        if last_round:
            return
        wait()


class _Part(NamedTuple):
    """The bytes from `start` to `end` of a log, in an open file whose first byte is the log's `first`."""

    descriptor: int
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
                    parts.append(_Part(descriptor, start, start, start + os.fstat(descriptor).st_size))
        except FileNotFoundError:
            continue  # Deleted by the writer since it was listed: what is there now has a longer gap.
        return parts


def _only_kept(parts: Sequence[_Part], kept: Kept) -> Sequence[_Part]:
    """Without what is on the disk still, since its segment holds some of the last bytes too."""
    end = parts[-1].end if parts else 0
    last = max(end - kept.last, 0)
    shown = [part if part.start < kept.first else part._replace(start=max(part.start, last)) for part in parts]
    return [part for part in shown if part.start < part.end]


def _gap(size: int, why: str = "it passed its limit") -> bytes:
    return f"\n[cumulus: {size} bytes of the log were dropped here: {why}]\n".encode()


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


def _segments(directory: str) -> list[tuple[int, str]]:
    """(offset, path) of the segments, in order."""
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        entries = []  # Purged meanwhile.
    named = ((_NAME.fullmatch(entry), entry) for entry in entries)
    return sorted((int(match[1]), os.path.join(directory, entry)) for match, entry in named if match)


def _overlap(data: bytes, value: bytes) -> int:
    """Length of the longest end of `data` that begins `value` without being all of it."""
    for length in range(min(len(value) - 1, len(data)), 0, -1):
        if data.endswith(value[:length]):
            return length
    return 0
