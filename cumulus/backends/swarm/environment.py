"""What joins a container to its leases: variables, and mounts for what the node's Chronos prepared.

NVIDIA's container runtime, and Chronos' own for all others, give a container the devices that a variable names.
PYOPENCL_CTX is not set: an image has its own OpenCL platforms, so their numbers on the node mean nothing in it;
CHRONOS_DEVICE_NAME says which device it is, and the job image's runner finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cumulus.backends.base import Workload
from cumulus.backends.job_environment import job_environment
from cumulus.backends.variables import LEASE_DEADLINE
from cumulus.chronos.contract.container import SLOT_VARIABLE
from cumulus.chronos.contract.variables import ACCOUNT, OPENCL_LAYERS, PRELOAD, merge

_NOT_HERE = ("PYOPENCL_CTX", "OCL_ICD_VENDORS", "CHRONOS_HOME", "LD_LIBRARY_PATH")
"""What holds on the node but not in a container."""

REQUEST = "/tmp/cumulus-checkpoint-request"
"""Where the node asks a container's program for a checkpoint; images have a /tmp."""

DEADLINE = "/tmp/cumulus-lease-deadline"
"""Where the node says when the lease ends, once the container has started: its time counts from then."""

_DIRECTORIES = (ACCOUNT, "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
_FILES = (OPENCL_LAYERS, PRELOAD, "PYTHONPATH")


def engine_environment(
    workload: Workload, prepared: Mapping[str, str], gang: Mapping[str, str] | None = None
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """The container's variables, and the mounts that make those true that name paths. `gang`: the variables of its
    gang, over which the job's own win."""
    variables = {**(gang or {}), **{e.name: e.value for e in workload.env if not e.secret}}
    variables.setdefault("PYTHONUNBUFFERED", "1")
    variables |= devices(workload)
    variables = merge(variables, {name: value for name, value in prepared.items() if name not in _NOT_HERE})
    fixed = job_environment(workload, workload.checkpoint_path, None, REQUEST)
    if workload.checkpointing is not None:
        fixed[LEASE_DEADLINE] = DEADLINE
    variables |= {name: value for name, value in fixed.items() if name not in _NOT_HERE}
    variables[SLOT_VARIABLE] = workload.name
    return variables, _mounts({name: value for name, value in prepared.items() if name in variables})


def devices(workload: Workload) -> dict[str, str]:
    """What the runtimes read. `void` keeps a container without such a lease from seeing any GPU, which with
    NVIDIA as the default runtime it would see all of (nvidia-container-toolkit#57)."""
    ids = [lease.device_id for lease in workload.leases]
    nvidia = [id for id in ids if id.startswith(("GPU-", "MIG-"))]
    variables = {"NVIDIA_VISIBLE_DEVICES": ",".join(nvidia) or "void"}
    if nvidia:
        variables["NVIDIA_DRIVER_CAPABILITIES"] = "compute,utility"
    others = [
        lease.device_id for lease in workload.leases if lease.device_type != "cpu" and lease.device_id not in nvidia
    ]
    # Also where there are none: neither the job nor its image may name devices that were not leased.
    variables["CHRONOS_DEVICES"] = ",".join(dict.fromkeys(others))
    return variables


def _mounts(prepared: Mapping[str, str]) -> list[dict[str, Any]]:
    mounts = []
    for name in (*_DIRECTORIES, *_FILES):
        for path in filter(None, prepared.get(name, "").split(":")):
            mounts.append({"Type": "bind", "Source": path, "Target": path, "ReadOnly": name in _FILES})
    if "CUDA_MPS_PIPE_DIRECTORY" in prepared:
        # MPS speaks through shared memory too, and services cannot share the node's IPC namespace.
        mounts.append({"Type": "bind", "Source": "/dev/shm", "Target": "/dev/shm", "ReadOnly": False})
    return mounts
