"""As whom to look at the files of a container whose user only its image names. Standard library only."""

from __future__ import annotations

import errno
import os

from cumulus.lib import processes
from cumulus.lib.unix_user import UnixUser

OWNER = "owner"
"""In place of a user: whoever the files belong to."""


def owner_of(path: str) -> UnixUser:
    """To whom the file or directory belongs, or the nearest directory above it that is there. Raises OSError."""
    while True:
        try:
            found = os.stat(path)
            return _user(found.st_uid, found.st_gid, ())
        except FileNotFoundError:
            if path == os.path.dirname(path):
                raise
            path = os.path.dirname(path)


def user_of_process(pid: int) -> UnixUser:
    """Whom a process runs as. Raises OSError where it is gone."""
    told = processes.status(pid)
    if not told:
        raise ProcessLookupError(errno.ESRCH, f"process {pid} is gone")
    return _user(int(told[b"Uid:"][1]), int(told[b"Gid:"][1]), tuple(map(int, told[b"Groups:"])))


def _user(uid: int, gid: int, groups: tuple[int, ...]) -> UnixUser:
    """Of an image: the node need not know them."""
    return UnixUser(uid, gid, groups, str(uid), "/", "/bin/sh")
