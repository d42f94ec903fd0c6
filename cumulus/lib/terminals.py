"""Terminals that programs get: their size, and whose they are. Linux only, standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios

from cumulus.lib.unix_user import UnixUser

USUAL_SIZE = (80, 24)
"""Columns and rows of a terminal before anybody has said how large theirs is: programs divide by them."""


def set_size(descriptor: int, columns: int, rows: int) -> None:
    """Numbers that are none a terminal can have are left out."""
    if 0 < columns < 2**16 and 0 < rows < 2**16:
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def take(descriptor: int, user: UnixUser | None) -> None:
    """Make it the terminal of this process, which leads a session, and the user's: programs open it by its name."""
    if user is not None:
        os.fchown(descriptor, user.uid, -1)
    os.fchmod(descriptor, 0o620)
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
