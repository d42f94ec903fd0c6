"""The log of a run: segments named by the offset of their first byte, the beginning and the end of it kept.

The supervisor appends, anyone reads. When the log passes its limit, segments from the middle are deleted: the first
lines say how the program began, the last ones how it ended. The reader sees the gap in the names and says so.
Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from cumulus.backends.process.layout import LOG_PREFIX

SEGMENT_BYTES = 8 * 1024 * 1024
LIMIT_BYTES = 64 * 1024 * 1024
"""Kept at most: the first segment and the last ones."""

_CHUNK = 64 * 1024


class LogWriter:
    """Appends to the log in `directory`; at most one writer at a time. Never raises: `error` says what it lost."""

    def __init__(self, directory: str, *, segment: int = SEGMENT_BYTES, limit: int = LIMIT_BYTES) -> None:
        self.error = ""
        self._directory = directory
        self._segment = min(segment, max(1, limit // 2))
        self._keep = max(2, limit // self._segment)
        self._descriptor = -1
        self._left = 0
        self._next = 0

    def write(self, data: bytes) -> None:
        """Append `data`. What cannot be written (full disk) is dropped, and the job goes on."""
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

    def close(self) -> None:
        """Make the last segment durable."""
        if self._descriptor >= 0:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self._lost(error)
            os.close(self._descriptor)
            self._descriptor = -1

    def _lost(self, error: OSError) -> None:
        self.error = self.error or f"its log could not be written: {error.strerror}"

    def _open(self) -> None:
        path = os.path.join(self._directory, f"{LOG_PREFIX}{self._next:015d}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._left = descriptor, self._segment
        present = _segments(self._directory)
        for _, unwanted in present[1 : len(present) - self._keep + 1]:
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

    @property
    def holding(self) -> bool:
        """Whether something is held back."""
        return bool(self._held)

    def flush(self) -> bytes:
        """What was held back: the stream paused or ended."""
        held, self._held = self._held, b""
        return held


def read_log(
    directory: str, *, tail: int | None = None, ended: Callable[[], bool] | None = None, wait: Callable[[], None]
) -> Iterator[bytes]:
    """The log's chunks, from the last `tail` lines where given. With `ended`, follows until it returns True."""
    segments = _segments(directory)
    position = segments[0][0] if segments else 0
    if tail is not None:
        position = _tail_position(segments, tail)
    while True:
        # Asked before reading: what was written before the end is then read in this round.
        last_round = ended is None or ended()
        for chunk in _read_from(directory, position):
            position = chunk[0]
            yield chunk[1]
        if last_round:
            return
        wait()


def _read_from(directory: str, position: int) -> Iterator[tuple[int, bytes]]:
    """Chunks from `position` on, each with the position after it."""
    for start, path in _segments(directory):
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if start + size <= position:
                    continue
                if start > position:
                    yield start, _gap(start - position)
                    position = start
                file.seek(position - start)
                while data := file.read(_CHUNK):
                    position += len(data)
                    yield position, data
        except FileNotFoundError:
            continue  # Deleted by the limit since it was listed: the next segment shows the gap.


def _gap(size: int) -> bytes:
    return f"\n[cumulus: {size} bytes of the log were dropped here: it passed its limit]\n".encode()


def _tail_position(segments: Sequence[tuple[int, str]], lines: int) -> int:
    """The position from which `lines` lines follow."""
    if not segments:
        return 0
    needed = lines
    end = segments[-1][0] + _size(segments[-1][1])
    if lines <= 0:
        return end
    for start, path in reversed(segments):
        try:
            with open(path, "rb") as file:
                stop = os.fstat(file.fileno()).st_size
                while stop > 0:
                    begin = max(0, stop - _CHUNK)
                    file.seek(begin)
                    block = file.read(stop - begin)
                    # A newline at the very end closes the last line, it begins none.
                    search = len(block) - 1 if start + stop == end else len(block)
                    while (found := block.rfind(b"\n", 0, search)) >= 0:
                        needed -= 1
                        if needed == 0:
                            return start + begin + found + 1
                        search = found
                    stop = begin
        except FileNotFoundError:
            return start
    return segments[0][0]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def _segments(directory: str) -> list[tuple[int, str]]:
    """(offset, path) of the segments, in order."""
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        entries = []  # Purged meanwhile.
    names = [n for n in entries if n.startswith(LOG_PREFIX) and n[len(LOG_PREFIX) :].isdigit()]
    return sorted((int(n[len(LOG_PREFIX) :]), os.path.join(directory, n)) for n in names)


def _overlap(data: bytes, value: bytes) -> int:
    """Length of the longest end of `data` that begins `value` without being all of it."""
    for length in range(min(len(value) - 1, len(data)), 0, -1):
        if data.endswith(value[:length]):
            return length
    return 0
