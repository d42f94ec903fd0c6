"""That a monitor still looks after the leases of a ledger, told where the ledger's own directory cannot: it may have
been removed, moved or replaced. Below `database`, which makes no other ledger there as long as this holds.

A monitor writes into `monitor.pid` which file it has open, and listens on a socket in the abstract namespace
(unix(7)) whose name is made from the ledger's path: it is there as long as the process is, whatever happens to files.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from cumulus.chronos.home import LEDGER
from cumulus.lib import unix_socket
from cumulus.lib.sqlite_file import FileIdentity, identity

LOCK = "monitor.pid"
"""The file in the ledger's home that its monitor has locked."""

TRUSTED = (0,)
"""Whose word counts beside that of the same user: the word of root."""

_PATIENCE = 1.0
_PAUSE = 0.1
"""One monitor takes over from another, or ends: for a moment the lock and the socket may not agree."""


def claim(home: Path) -> socket.socket | None:
    """Say that this process looks after the ledger in `home`, until what is returned is closed. None where another
    process says so already. It must `answer` now and then: else those who ask fill the queue."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(_address(home))
        listener.listen(1024)
        listener.setblocking(False)
    except OSError:
        listener.close()
        return None
    return listener


def answer(listener: socket.socket) -> None:
    """Let go of those who asked: they have learned all from the connection."""
    with suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()


def of_another_ledger(home: Path) -> int | None:
    """The pid of a monitor that looks after another ledger than what is in `home` now; None where there is none."""
    deadline = time.monotonic() + _PATIENCE
    while (pid := _claimant(home)) is not None:
        there = identity(home / LEDGER)
        if there is not None and there == _served(home):
            return None
        if time.monotonic() >= deadline:
            return pid
        time.sleep(_PAUSE)
    return None


def _claimant(home: Path) -> int | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_PATIENCE)
        try:
            asking.connect(_address(home))
            pid, uid, _ = unix_socket.peer(asking)
        except OSError:
            return None
    # Any user may take a name: only root's and one's own word counts.
    return int(pid) if uid in (*TRUSTED, os.geteuid()) else None


def _served(home: Path) -> FileIdentity | None:
    """The ledger that the home's last monitor had open, as it wrote there. A copy of the home says the same, but its
    own ledger is another file."""
    try:
        _, _, device, inode = (home / LOCK).read_text().split()
        return int(device), int(inode)
    except (OSError, ValueError):
        return None


def _address(home: Path) -> bytes:
    # By the real path, so that all names of a directory mean one ledger; also while it is gone.
    return b"\0chronos-" + hashlib.sha256(os.path.realpath(os.fsencode(home))).hexdigest().encode()
