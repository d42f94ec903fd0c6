"""When the bytes of a log were written, to within a second: beside each segment a file of pairs (offset, time).

    log.000000012582912.times   the first byte at each time, at most four pairs a second

So a log of text lines costs little more than without, and a segment's times go with it. Nothing depends on them but who
asks for times: where a pair could not be written, the one before it holds on. Standard library only.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress

_PAIR = struct.Struct("<QQ")
"""Offset in the log, milliseconds since 1970."""
_SUFFIX = ".times"
_STEP = 0.25
"""Seconds for which a pair holds, if more is written meanwhile."""

TimedBytes = tuple[float, bytes]
"""When they were written, in seconds since 1970, and the bytes."""


class TimesWriter:
    """For the writer of one log. It never raises, and times never go back."""

    def __init__(self) -> None:
        self._segment = ""
        self._noted = 0.0

    def note(self, segment: str, offset: int, at: float) -> None:
        """The byte at `offset`, which is written next into the file `segment`, is of that time."""
        if segment == self._segment and at < self._noted + _STEP:
            return
        self._segment, self._noted = segment, max(at, self._noted)
        with suppress(OSError):
            descriptor = os.open(segment + _SUFFIX, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Where a full disk cut a pair off, it is written over.
                whole = os.fstat(descriptor).st_size // _PAIR.size * _PAIR.size
                os.pwrite(descriptor, _PAIR.pack(offset, int(self._noted * 1000)), whole)
            finally:
                os.close(descriptor)


def forget(segment: str) -> None:
    """The file `segment` is deleted: so are its times."""
    with suppress(FileNotFoundError):
        os.unlink(segment + _SUFFIX)


class Times:
    """For one reader, who may read while the log grows."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[list[int], list[float]]] = {}
        self._last = 0.0

    def of(self, segment: str) -> tuple[Sequence[int], Sequence[float]]:
        """Offsets and times, each in order; both empty where there are none."""
        offsets, times = self._known.setdefault(segment, ([], []))
        with suppress(OSError), open(segment + _SUFFIX, "rb") as file:
            file.seek(len(offsets) * _PAIR.size)
            data = file.read()
            for offset, milliseconds in _PAIR.iter_unpack(data[: len(data) // _PAIR.size * _PAIR.size]):
                offsets.append(offset)
                times.append(milliseconds / 1000)
        return offsets, times

    def timed(self, segment: str, position: int, data: bytes) -> Iterator[TimedBytes]:
        """The bytes at `position` of the log, which are in the file `segment`, in pieces of one time each."""
        offsets, times = self.of(segment)
        index = bisect_right(offsets, position) - 1
        while data:
            if times:
                self._last = times[max(index, 0)]
            size = offsets[index + 1] - position if index + 1 < len(offsets) else len(data)
            yield self._last, data[:size]
            position, data, index = position + size, data[size:], index + 1

    def first(self, segment: str, since: float) -> int | None:
        """The first byte of the segment that may have been written then or later; None where there is none. What was
        written a moment before may be there too."""
        offsets, times = self.of(segment)
        index = bisect_right(times, since - _STEP)
        return offsets[index] if index < len(offsets) else None
