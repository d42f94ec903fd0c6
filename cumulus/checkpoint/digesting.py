"""A file whose digest is there as soon as it is written: the disk and a second processor work while it is written."""

from __future__ import annotations

import collections
import hashlib
import os
import threading
from typing import Callable, Union

from .layout import File

Data = Union[bytes, bytearray, memoryview]

_SMALL = 2**16
"""Smaller writes are collected."""
_CHUNK = 2**23
"""How many bytes are written at a time, while the digest of those before is taken."""
_COPIES = 4
"""How many chunks are copied at most, where their memory is the writer's own."""
_NOTHING = memoryview(b"")
_WRITEBACK = 2**26
"""How many bytes are written before the disk is asked to begin with them."""


class DigestingFile:
    """A new file for writing, once from the beginning to the end: what `pickle.dump`, `torch.save` and the like take.

    `close` makes it durable. Raises OSError.
    """

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, 0o600)
        self._name = os.path.basename(path)
        self._digest = hashlib.sha256()
        self._small = bytearray()
        self._size = 0
        self._asked = 0
        self._copies: collections.deque[bytearray] = collections.deque()
        self._hashing = _Beside(self._digest.update)
        self._syncing = _Beside(lambda _: os.fdatasync(self._descriptor))

    def write(self, data: Data) -> int:
        """Append. The memory of an object, as of an array, must stay as it is until `close`; a bytearray need not."""
        view = memoryview(data).cast("B") if not isinstance(data, bytes) else data
        size = len(view)
        if size < _SMALL:
            self._small += view
            if len(self._small) >= _SMALL:
                self.flush()
        else:
            self.flush()
            self._put(view)
        return size

    def tell(self) -> int:
        return self._size + len(self._small)

    def flush(self) -> None:
        if self._small:
            small, self._small = bytes(self._small), bytearray()
            self._put(small)

    def close(self) -> File:
        """What was written, now durable, by its name."""
        try:
            self.flush()
            self._hashing.wait()
            self._syncing.wait()
            os.fsync(self._descriptor)
        finally:
            self.abandon()
        return File(self._name, self._size, self._digest.hexdigest())

    def abandon(self) -> None:
        """Write no more; what is there is of no use."""
        self._hashing.end()
        self._syncing.end()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _put(self, data: Data) -> None:
        view = memoryview(data)
        kept = _is_kept(data)
        for start in range(0, len(view), _CHUNK):
            chunk = view[start : start + _CHUNK]
            if kept:
                self._hashing.do(chunk)
            else:
                self._hash_copy(chunk)
            while chunk:
                chunk = chunk[os.write(self._descriptor, chunk) :]
        self._size += len(view)
        if self._size - self._asked >= _WRITEBACK and self._syncing.idle:
            self._asked = self._size
            self._syncing.do(_NOTHING)

    def _hash_copy(self, chunk: memoryview) -> None:
        if len(self._copies) < _COPIES:
            copy = bytearray(_CHUNK)
        else:
            copy = self._copies.popleft()
            self._hashing.wait(but=_COPIES - 1)
        self._copies.append(copy)
        part = memoryview(copy)[: len(chunk)]
        part[:] = chunk
        self._hashing.do(part)


def _is_kept(data: Data) -> bool:
    """Whether the data stays as it is until its digest is taken: as long as a reference is held, and the program waits
    for its save. Other memory is that of a writer in C, which goes on."""
    owner = data.obj if isinstance(data, memoryview) else data
    return owner is not None and not isinstance(owner, bytearray)


class _Beside:
    """Does one thing after another in a thread of its own; in this one where no thread can be had any more."""

    def __init__(self, action: Callable[[memoryview], object]) -> None:
        self._action = action
        self._tasks: collections.deque[memoryview | None] = collections.deque()
        self._changed = threading.Condition()
        self._left = 0
        self._error: Exception | None = None
        self._thread: threading.Thread | None = threading.Thread(target=self._work, name="checkpoint", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None

    @property
    def idle(self) -> bool:
        return self._left == 0

    def do(self, data: memoryview) -> None:
        if self._thread is None:
            self._action(data)
            return
        with self._changed:
            self._tasks.append(data)
            self._left += 1
            self._changed.notify_all()

    def wait(self, but: int = 0) -> None:
        """Until all is done, but so many. Raises what an action raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._left <= but)
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def end(self) -> None:
        if self._thread is not None:
            with self._changed:
                self._tasks.append(None)
                self._changed.notify_all()
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._tasks))
                data = self._tasks.popleft()
            if data is None:
                return
            try:
                self._action(data)
            except Exception as error:
                self._error = error
            del data  # It holds the caller's memory.
            with self._changed:
                self._left -= 1
                self._changed.notify_all()
