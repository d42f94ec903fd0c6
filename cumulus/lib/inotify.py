"""inotify(7) for one directory: which names in it were closed after writing or touched; or for one file.

`watchfiles` looks every few milliseconds and recursively; here one descriptor in a poll set is enough.
"""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress

_MODIFY, _CLOSE_WRITE, _ATTRIB = 0x2, 0x8, 0x4
_Q_OVERFLOW = 0x4000
_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_HEADER = struct.Struct("iIII")


class Inotify:
    """Watches `directory`, which may be a file: its name is "" then. `written`: each write counts too, and not the
    closing alone. Raises OSError (ENOSPC, EMFILE: the user's inotify limits are reached)."""

    def __init__(self, directory: str, *, written: bool = False) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self._checked(self._libc.inotify_init1(_NONBLOCK | _CLOEXEC))
        try:
            mask = _CLOSE_WRITE | _ATTRIB | (_MODIFY if written else 0)
            self._checked(self._libc.inotify_add_watch(self.descriptor, os.fsencode(directory), mask))
        except OSError:
            self.close()
            raise

    def read(self) -> set[str] | None:
        """The names that changed since the last call. None: too many to tell, look at all."""
        names: set[str] = set()
        while True:
            try:
                data = os.read(self.descriptor, 64 * 1024)
            except BlockingIOError:
                return names
            position = 0
            while position < len(data):
                _, mask, _, length = _HEADER.unpack_from(data, position)
                position += _HEADER.size
                if mask & _Q_OVERFLOW:
                    return None
                names.add(os.fsdecode(data[position : position + length].rstrip(b"\0")))
                position += length

    def drain(self) -> None:
        """Forget what has come so far, for who need not know which names it was."""
        with suppress(BlockingIOError):
            os.read(self.descriptor, 64 * 1024)

    def close(self) -> None:
        os.close(self.descriptor)

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return result
