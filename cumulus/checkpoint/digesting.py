"""A file whose digest is there as soon as it is written: the disk and a second processor work while it is written."""

from __future__ import annotations

import collections
import hashlib
import os
from typing import Union

from .beside import Beside
from .layout import OPEN_NEW, File

_Data = Union[bytes, bytearray, memoryview]

_SMALL = 2**16
"""Smaller writes are collected."""
_CHUNK = 2**23
"""How many bytes are written at a time, while the digest of those before is taken."""
_COPIES = 4
"""How many chunks are copied at most, where their memory is the writer's own."""
_WRITEBACK = 2**26
"""How many bytes are written before the disk is asked to begin with them."""


class DigestingFile:
    """A new file for writing, once from the beginning to the end: what `pickle.dump`, `torch.save` and the like take.

    `close` makes it durable. Raises OSError.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, OPEN_NEW, 0o600)
        self._name = os.path.basename(path)
        self._digest = hashlib.sha256()
        self._small = bytearray()
        self._size = 0
        self._asked = 0
        self._copies: collections.deque[bytearray] = collections.deque()
        self._hashing = Beside[memoryview](self._digest.update)
        self._syncing = Beside[bool](lambda _: os.fdatasync(self._descriptor))

    def write(self, data: _Data) -> int:
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

    def _put(self, data: _Data) -> None:
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
            self._syncing.do(True)

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


def _is_kept(data: _Data) -> bool:
    """Whether the data stays as it is until its digest is taken: as long as a reference is held, and the program waits
    for its save. Other memory is that of a writer in C, which goes on."""
    owner = data.obj if isinstance(data, memoryview) else data
    return owner is not None and not isinstance(owner, bytearray)
