"""Who asks. Every call of the service takes an identity, for roles, quotas and the audit log."""

from __future__ import annotations

import os
from typing import NamedTuple


class Identity(NamedTuple):
    """A user as one transport knows them: by their process, a socket's peer credentials, a certificate or a token.

    `uid` is the number on this machine, None for a user who has none here.
    """

    name: str
    uid: int | None = None
    groups: tuple[str, ...] = ()
    token: str = ""
    """The id of the token or certificate that showed it; "": the kernel did."""

    @staticmethod
    def of_this_process() -> Identity:
        """The user whom this process runs as. A number stands for a user or group that has no name."""
        uid = os.geteuid()
        return Identity(_user_name(uid), uid, tuple(_group_name(gid) for gid in os.getgroups()))


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
