"""As whom to look at the files of a container whose user only its image names. Standard library only."""

from __future__ import annotations

import os

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
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    groups = tuple(map(int, fields["Groups"].split()))
    return _user(int(fields["Uid"].split()[1]), int(fields["Gid"].split()[1]), groups)


def _user(uid: int, gid: int, groups: tuple[int, ...]) -> UnixUser:
    """Of an image: the node need not know them."""
    return UnixUser(uid, gid, groups, str(uid), "/", "/bin/sh")
