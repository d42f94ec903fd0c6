"""The sha256 of a stream, made beside the work on the stream: it takes about as long as writing to a disk does.

Standard library only."""

from __future__ import annotations

import hashlib
import queue
import threading

_AT_ONCE = 4 * 2**20
"""Bytes of a stream before a thread is worth its start."""
_WAITING = 8
"""Pieces that may wait for it."""


class Sha256:
    """As of hashlib, but that a piece must not be changed after it was given. `close` it: it may have a thread."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._size = 0
        self._thread: threading.Thread | None = None
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_WAITING)

    def update(self, piece: bytes, /) -> None:
        if self._thread is None and self._size + len(piece) <= _AT_ONCE:
            self._size += len(piece)
            self._digest.update(piece)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sha256", daemon=True)
            self._thread.start()
        self._pieces.put(piece)

    def hexdigest(self) -> str:
        """Of all pieces. None comes after it."""
        self.close()
        return self._digest.hexdigest()

    def close(self) -> None:
        """May be called again."""
        if self._thread is not None and self._thread.is_alive():
            self._pieces.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._digest.update(piece)
