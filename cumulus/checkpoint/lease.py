"""When the lease ends, on this node's clock."""

from __future__ import annotations

import datetime
import math
import os
import struct
import time
from collections.abc import Sequence

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""It also runs while the machine sleeps, as leases do; not every system has it."""
_LIMITS = "limits"
_HEAD = struct.Struct("=8sQQ")
_MAGIC = b"CHRLIM1\0"
"""Of the account that the node keeps of a lease (chronos/enforce/common/account.h): magic, bytes, and nanoseconds of
the clock at which the lease ends."""


def now() -> float:
    """Seconds on the clock by which leases end."""
    return time.clock_gettime(_CLOCK)


class LeaseEnd:
    """The end of the lease: `accounts` are the directories of its accounts, which also tell of a longer lease. Where
    there are none, `deadline` counts, a number or the path of a file that holds it; without that `expires_at`, which is
    wall-clock time."""

    def __init__(self, deadline: str | None, expires_at: str | None = None, accounts: Sequence[str] = ()) -> None:
        self._accounts = tuple(accounts)
        self._file: str | None = None
        self._at = math.inf
        number = _number(deadline)
        if number is not None:
            self._at = number
        elif deadline is not None and deadline.startswith("/"):
            self._file = deadline
        elif expires_at is not None:
            self._at = min(map(_from_wall_clock, expires_at.split(",")))

    def read(self) -> float:
        """When it ends; infinity where there is no lease. A file that cannot be read now leaves what it said before."""
        if self._accounts:
            ends = [_of_account(each) for each in self._accounts]
            known = [end for end in ends if end is not None]
            if len(known) == len(ends):
                self._at = min(known)
                return self._at
        if self._file is not None:
            try:
                with open(self._file, encoding="ascii") as file:
                    number = _number(file.read(100))
            except (OSError, ValueError):
                number = None
            if number is not None:
                self._at = number
        return self._at


def _of_account(directory: str) -> float | None:
    """When the account says that its lease ends; None where it can't be read."""
    try:
        with open(os.path.join(directory, _LIMITS), "rb") as file:
            magic, _, nanoseconds = _HEAD.unpack(file.read(_HEAD.size))
    except (OSError, struct.error):
        return None
    return nanoseconds / 1e9 if magic == _MAGIC else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _from_wall_clock(text: str) -> float:
    try:
        moment = datetime.datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        return math.inf
    if moment.tzinfo is None:
        return math.inf
    return now() + moment.timestamp() - time.time()
