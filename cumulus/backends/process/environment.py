"""The environment of a job: stated here, and nothing of the shell or service that started the daemon.

    login (PATH, HOME, USER, ...) < drivers < the node's configuration (jobs.env) < the job's own < secrets < its lease

So a job is the same under systemd and under a terminal, on every node of one configuration. docs/jobs.md has the
table of all variables. Secrets are added by the supervisor.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence

from cumulus.backends.base import LeaseRef, Workload
from cumulus.chronos.environment import selection

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What a login has. A program that wants another Python says so: by its path, or by a PATH of its own."""

DRIVERS = ("OCL_ICD_VENDORS", "OCL_ICD_FILENAMES", "OPENCL_VENDOR_PATH", "POCL_DEVICES")
"""The daemon's, where it has them: they say which OpenCL drivers there are, and PYOPENCL_CTX counts those."""


def own_environment(
    workload: Workload, daemon: Mapping[str, str], node: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What a job has by default, over it the variables that `node` gives all its jobs, and over those the job's own
    except the ones from secrets. Of the `daemon`'s environment only `DRIVERS` are taken."""
    variables = _login() | {name: daemon[name] for name in DRIVERS if name in daemon} | dict(node or {})
    variables.update({e.name: e.value for e in workload.env if not e.secret})
    return variables


def _login() -> dict[str, str]:
    """Of the user as whom jobs run, as the system's list of users has it."""
    try:
        user = pwd.getpwuid(os.geteuid())
        name, home, shell = user.pw_name, user.pw_dir, user.pw_shell
    except KeyError:
        name, home, shell = str(os.geteuid()), "/", ""
    return {
        "PATH": PATH,
        "HOME": home,
        "USER": name,
        "LOGNAME": name,
        "SHELL": shell or "/bin/sh",
        # No locale of anybody's: numbers and sorting are the same for all, and text is UTF-8.
        "LANG": "C.UTF-8",
        # No login has it. What a job prints is then in its log at once, and not lost with SIGKILL.
        "PYTHONUNBUFFERED": "1",
    }


def fixed_environment(workload: Workload, checkpoint: str, chronos_home: str | None) -> dict[str, str]:
    """What says who the job is and what it leased: wins over all else, secrets too.

    CUMULUS_WORKLOAD and CHRONOS_PARTITION_ID are also the marks by which the node finds processes to end.
    """
    variables = {
        "CUMULUS_JOB": workload.job,
        "CUMULUS_NAMESPACE": workload.namespace,
        "CUMULUS_ATTEMPT": str(workload.attempt),
        "CUMULUS_REPLICA": str(workload.replica),
        "CUMULUS_REPLICAS": str(workload.replicas),
        "CUMULUS_WORKLOAD": workload.name,
    }
    if checkpoint:
        variables["CUMULUS_CHECKPOINT_PATH"] = checkpoint
    if chronos_home is not None:
        variables["CHRONOS_HOME"] = chronos_home
    variables.update(_of_the_leases(workload.leases))
    return variables


def _of_the_leases(leases: Sequence[LeaseRef]) -> dict[str, str]:
    """One value a lease, comma-separated in the leases' order; CHRONOS_EXPIRES_AT is the first to come."""
    if not leases:
        return {}
    variables = {
        "CHRONOS_PARTITION_ID": ",".join(x.id for x in leases),
        "CHRONOS_MEMORY_BYTES": ",".join(str(x.memory_bytes) for x in leases),
        "CHRONOS_COMPUTE_PERCENT": ",".join(f"{x.compute / 10:g}" for x in leases),
        "CHRONOS_EXPIRES_AT": min(x.expires_at for x in leases),
        "CHRONOS_LEASE_SECONDS": f"{min(x.seconds for x in leases):g}",
        "CHRONOS_DEVICE": ",".join(str(x.device) for x in leases),
        "CHRONOS_DEVICE_NAME": ",".join(x.device_name for x in leases),
        "CHRONOS_FENCING_TOKEN": ",".join(str(x.token) for x in leases),
        "CHRONOS_ENFORCEMENT": min((x.enforcement for x in leases), key=_STRENGTHS.index),
    }
    variables.update(selection([(x.device_id, x.platform_index, x.device_index) for x in leases]))
    return variables


_STRENGTHS = ["none", "guarded", "hard"]
