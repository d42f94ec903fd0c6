"""What is sent: bytes, named by their sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

KEPT = 64 * 2**10
"""Bytes from which on an object is kept as it is: to copy a smaller one costs less than a piece more."""


class Blob(NamedTuple):
    """Bytes, and what they are named by. They lie in pieces, so that what is large is nowhere copied."""

    sha256: str
    size: int
    pieces: tuple[bytes, ...]

    @classmethod
    def of(cls, *pieces: bytes) -> Blob:
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        return cls(digest.hexdigest(), sum(map(len, pieces)), pieces)

    def parts(self, begin: int, end: int, largest: int) -> Iterator[memoryview]:
        """The bytes from `begin` to before `end`, each time `largest` at most."""
        at = 0
        for piece in self.pieces:
            view = memoryview(piece)[max(begin - at, 0) : max(end - at, 0)]
            at += len(piece)
            for start in range(0, len(view), largest):
                yield view[start : start + largest]


class Pieces:
    """What is written, for a Blob."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[bytes] = []
        self._small = bytearray()

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        self.size += size
        if size >= KEPT:
            self._close()
            # The same object where it is bytes. What is not may change until it is sent.
            self._pieces.append(bytes(data))
        else:
            self._small += data
        return size

    def blob(self) -> Blob:
        self._close()
        return Blob.of(*self._pieces)

    def _close(self) -> None:
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small.clear()
