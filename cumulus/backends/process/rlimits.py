"""The resource limits and the priority of a job: fixed here, not inherited from the daemon's shell.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import resource

SOFT = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_STACK: 8 * 2**20,
    resource.RLIMIT_NOFILE: 65536,
}
"""No dumps of tens of gigabytes into a working directory; the stack that programs are made for; files enough for data
loaders. All other soft limits are as high as their hard ones, which are the daemon's: its unit may set those."""


def apply() -> None:
    """Give this process, which becomes the job, its limits. Raises OSError, ValueError."""
    for number in _NUMBERS:
        soft, hard = resource.getrlimit(number)
        wanted = lower(SOFT.get(number, hard), hard)
        if wanted != soft:
            resource.setrlimit(number, (wanted, hard))
    with contextlib.suppress(OSError):
        # Only root may undo the nice value of a daemon.
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def lower(one: int, other: int) -> int:
    """The lower of two limits; RLIM_INFINITY, which is -1, is the highest."""
    limits = [limit for limit in (one, other) if limit != resource.RLIM_INFINITY]
    return min(limits, default=resource.RLIM_INFINITY)


_NUMBERS = sorted({number for name, number in vars(resource).items() if name.startswith("RLIMIT_")})
