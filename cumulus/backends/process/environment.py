"""Makes the environment of a job. Nothing of the shell or service that started the daemon is in it.

    login (PATH, HOME, USER, ...) < drivers < the node's configuration (jobs.env) < its gang < the job's own < secrets
    < its lease

So a job is the same under systemd and under a terminal, on every node of one configuration. docs/jobs.md has the
table of all variables. Secrets are added by the supervisor.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from cumulus.backends.base import Workload
from cumulus.lib.unix_user import UnixUser

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What a login of the daemon's user has. A program that wants another Python gives its path, or a PATH of its own."""

DRIVERS = ("OCL_ICD_VENDORS", "OCL_ICD_FILENAMES", "OPENCL_VENDOR_PATH", "POCL_DEVICES")
"""The daemon's, where it has them: they say which OpenCL drivers there are, and PYOPENCL_CTX counts those."""


def own_environment(
    workload: Workload,
    daemon: Mapping[str, str],
    node: Mapping[str, str] | None = None,
    user: UnixUser | None = None,
    gang: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """What a job has by default, over it the variables that `node` gives all its jobs, those of its `gang`, and over
    them the job's own except the ones from secrets. Of the `daemon`'s environment only `DRIVERS` are taken. `user`:
    whom it runs as, where that is not the daemon's own user."""
    variables = _login(user) | {name: daemon[name] for name in DRIVERS if name in daemon}
    variables |= {**(node or {}), **(gang or {})}
    variables.update({e.name: e.value for e in workload.env if not e.secret})
    return variables


def _login(user: UnixUser | None) -> dict[str, str]:
    """The login variables of the user that jobs run as, from the system's list of users."""
    return {
        **(_own() if user is None else user.variables),
        # No locale of anybody's: numbers and sorting are the same for all, and text is UTF-8.
        "LANG": "C.UTF-8",
        # No login has it. What a job prints is then in its log at once, and not lost with SIGKILL.
        "PYTHONUNBUFFERED": "1",
    }


def _own() -> dict[str, str]:
    """Of the daemon's user, whose jobs find what its administrators do."""
    try:
        user = pwd.getpwuid(os.geteuid())
        name, home, shell = user.pw_name, user.pw_dir, user.pw_shell
    except KeyError:
        name, home, shell = str(os.geteuid()), "/", ""
    return {"PATH": PATH, "HOME": home, "USER": name, "LOGNAME": name, "SHELL": shell or "/bin/sh"}
