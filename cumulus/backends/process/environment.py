"""The environment of a job: a small clean one, its lease, its own variables. Secrets are added by the supervisor.

The daemon's environment may hold credentials, so only the variables named here pass from it to jobs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from cumulus.backends.base import LeaseRef, Workload
from cumulus.chronos.environment import selection

PASSED = frozenset(
    {
        "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_CACHE_HOME",
        "SSL_CERT_FILE", "SSL_CERT_DIR",
        "LD_LIBRARY_PATH",
        "OCL_ICD_VENDORS", "OCL_ICD_FILENAMES", "OPENCL_VENDOR_PATH",
        "CUDA_HOME", "CUDA_PATH", "CUDA_CACHE_PATH", "CUDA_DEVICE_ORDER", "CUDA_MPS_PIPE_DIRECTORY",
        "CUDA_MPS_LOG_DIRECTORY",
        "ROCM_PATH", "ONEAPI_ROOT",
    }
)  # fmt: skip
"""Passed from the daemon to jobs where set; and LC_* and POCL_*."""

_PASSED_PREFIXES = ("LC_", "POCL_")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def own_environment(workload: Workload, daemon: Mapping[str, str]) -> dict[str, str]:
    """What passes from the daemon's environment, and over it the job's own variables except those from secrets."""
    variables = {name: value for name, value in daemon.items() if name in PASSED or name.startswith(_PASSED_PREFIXES)}
    variables.setdefault("HOME", os.path.expanduser("~"))
    variables.setdefault("LANG", "C.UTF-8")
    # `python` is the daemon's own, which has pyopencl: a command `[python, job.py]` works on a fresh machine.
    path = [os.path.dirname(sys.executable), *daemon.get("PATH", _DEFAULT_PATH).split(":")]
    variables["PATH"] = ":".join(dict.fromkeys(path))
    # What a job prints is then in its log at once, and not lost with SIGKILL.
    variables["PYTHONUNBUFFERED"] = "1"
    variables.update({e.name: e.value for e in workload.env if not e.secret})
    return variables


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
        "CHRONOS_DEVICE": ",".join(str(x.device) for x in leases),
        "CHRONOS_DEVICE_NAME": ",".join(x.device_name for x in leases),
        "CHRONOS_FENCING_TOKEN": ",".join(str(x.token) for x in leases),
        "CHRONOS_ENFORCEMENT": min((x.enforcement for x in leases), key=_STRENGTHS.index),
    }
    variables.update(selection([(x.device_id, x.platform_index, x.device_index) for x in leases]))
    return variables


_STRENGTHS = ["none", "guarded", "hard"]
