"""The Unix accounts of this machine: who a uid is, and in which groups.

The answer may come from a directory in the network (LDAP, SSSD) and take its time, so it is kept for a while.
"""

from __future__ import annotations

import grp
import os
import pwd
import threading
import time
from collections.abc import Callable

from cumulus.errors import Unauthenticated
from cumulus.service.identity import Identity

KEPT_SECONDS = 30.0
"""How long after a change of its groups a user may still have the old ones."""
MOST_KEPT = 1024


class Accounts:
    """May be asked from several threads. `now`: seconds of a clock that never goes back."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._mutex = threading.Lock()
        self._kept: dict[int, tuple[float, Identity]] = {}

    def known(self, uid: int) -> Identity | None:
        """The identity of a uid if it was asked for a short while ago. Never blocks for long."""
        with self._mutex:
            kept = self._kept.get(uid)
        return kept[1] if kept is not None and self._now() < kept[0] else None

    def of_uid(self, uid: int) -> Identity:
        """The identity of a uid. One without an account has its number for a name, and no groups.

        Raises Unauthenticated for the uid that the kernel shows for all those that it can't name here (of another user
        namespace): it says of nobody who they are."""
        if found := self.known(uid):
            return found
        if uid == overflow_uid():
            raise Unauthenticated(
                f"the kernel does not say who you are: it gives uid {uid} to every user whom it can't name here",
                hint="ask from the same user namespace, or with a token",
            )
        found = _look_up(uid)
        with self._mutex:
            if len(self._kept) >= MOST_KEPT:
                # The one that was looked up first.
                del self._kept[next(iter(self._kept))]
            self._kept.pop(uid, None)
            self._kept[uid] = (self._now() + KEPT_SECONDS, found)
        return found

    def still(self, uid: int, name: str, shown: str) -> Identity:
        """The identity of a uid that was a user's when they got what is `shown` now: a token, say. Raises
        Unauthenticated where their number was given to somebody else, and as `of_uid`."""
        account = self.of_uid(uid)
        if account.name != name:
            raise Unauthenticated(f"the {shown}'s user has no account any more")
        return account

    def of_name(self, name: str) -> Identity | None:
        """The identity of the account with this name; None where there is none."""
        try:
            uid = pwd.getpwnam(name).pw_uid
        except (KeyError, ValueError):
            return None
        return self.of_uid(uid)


def overflow_uid() -> int:
    """Raises nothing: where the kernel does not tell, it is what Linux has been built with for ever."""
    try:
        with open("/proc/sys/kernel/overflowuid") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65534


def _look_up(uid: int) -> Identity:
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return Identity(str(uid), uid)
    names = []
    for gid in os.getgrouplist(account.pw_name, account.pw_gid):
        try:
            names.append(grp.getgrgid(gid).gr_name)
        except KeyError:
            names.append(str(gid))
    return Identity(account.pw_name, uid, tuple(names))
