"""The environment variables by which a program knows its leases, uses the leased devices, and is held to them.

The node finds a lease's processes by `PARTITION_ID`. `of_leases` is the same for a job, a container and a program
that `chronos_cli exec` runs; what holds a program to a lease, which the node prepares, is added by `join` and `merge`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cumulus.chronos.contract.lease import Lease
from cumulus.errors import ChronosError
from cumulus.resources.device import Device
from cumulus.resources.enforcement import Enforcement

PARTITION_ID = "CHRONOS_PARTITION_ID"
"""Names the leases of a process, separated by commas."""

EXPIRES_AT = "CHRONOS_EXPIRES_AT"
LEASE_SECONDS = "CHRONOS_LEASE_SECONDS"
"""How long the lease lasts from the start of the program; where its time counts from the grant it is not set."""

MPS_MODE = "CHRONOS_MPS"
"""How MPS is used on a node, and `off` for a job that wants none."""
HOME = "CHRONOS_HOME"
"""The ledger's directory."""
OFFER_CPU = "CHRONOS_OFFER_CPU"
"""1: CPUs are leased too where there is a GPU."""
MONITOR_IDLE = "CHRONOS_MONITOR_IDLE"
"""Seconds without a live lease after which a monitor that is no service exits."""
OPENCL_LAYER = "CUMULUS_OPENCL_LAYER"
"""The built library that counts OpenCL memory."""
CUDA_COUNTER = "CUMULUS_CUDA_COUNTER"
"""The built library that counts CUDA memory."""

ACCOUNT = "CHRONOS_ACCOUNT"
"""Directories of the leases' accounts, which those libraries share."""
OPENCL_LAYERS = "OPENCL_LAYERS"
PRELOAD = "LD_PRELOAD"

_VENDORS = Path("/etc/OpenCL/vendors")
_PIPE = "CUDA_MPS_PIPE_DIRECTORY"
_LISTS = {
    "PYTHONPATH": ":",
    "LD_LIBRARY_PATH": ":",
    PRELOAD: ":",
    OPENCL_LAYERS: ":",
    ACCOUNT: ":",
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": ",",
}
"""Variables that hold several values and what is between them: ours go before those of the job."""

_LEAST = {
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION",
    "CUPY_GPU_MEMORY_LIMIT",
}  # fmt: skip
"""Numbers that count on every device that a job sees: of several leases the smallest holds."""

_RENAMED = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "XLA_CLIENT_MEM_FRACTION"}
"""Ours and a newer name of it. JAX fails where both are set: a job that uses the newer one gets ours under it."""


class HeldLease(NamedTuple):
    """What a program is told of a lease that it holds."""

    id: str
    memory_bytes: int
    compute: int
    """In thousandths of the device."""
    token: int
    expires_at: str
    enforcement: Enforcement
    device: int
    device_id: str
    device_name: str
    platform_index: int
    device_index: int
    seconds: float | None = None
    """How long it lasts from the start of the program; None where that is not told."""


def of_lease(lease: Lease, device: Device) -> dict[str, str]:
    """What a process inside the lease gets beside its own environment."""
    return of_leases(
        [
            HeldLease(
                lease.id, lease.memory_bytes, lease.compute, lease.token, lease.expires_at,
                device.enforcement_of(lease.memory_bytes, lease.compute),
                lease.device, device.id, device.name, device.platform_index, device.device_index,
            )
        ]
    )  # fmt: skip


def of_leases(leases: Sequence[HeldLease]) -> dict[str, str]:
    """What a process that holds all of them gets: one value a lease, separated by commas, in the order of the leases.

    CHRONOS_EXPIRES_AT and CHRONOS_LEASE_SECONDS are those of the first lease to end, CHRONOS_ENFORCEMENT is the
    weakest. Empty where there are no leases."""
    if not leases:
        return {}
    variables = {
        PARTITION_ID: ",".join(x.id for x in leases),
        "CHRONOS_MEMORY_BYTES": ",".join(str(x.memory_bytes) for x in leases),
        "CHRONOS_COMPUTE_PERCENT": ",".join(f"{x.compute / 10:g}" for x in leases),
        EXPIRES_AT: min(x.expires_at for x in leases),
        "CHRONOS_DEVICE": ",".join(str(x.device) for x in leases),
        "CHRONOS_DEVICE_NAME": ",".join(x.device_name for x in leases),
        "CHRONOS_FENCING_TOKEN": ",".join(str(x.token) for x in leases),
        "CHRONOS_ENFORCEMENT": min((x.enforcement for x in leases), key=list(Enforcement).index).value,
    }
    seconds = [x.seconds for x in leases if x.seconds is not None]
    if seconds:
        variables[LEASE_SECONDS] = f"{min(seconds):g}"
    return variables | selection([(x.device_id, x.platform_index, x.device_index) for x in leases])


def selection(devices: Sequence[tuple[str, int, int]]) -> dict[str, str]:
    """What makes OpenCL and CUDA programs use the devices, each given by its id and its OpenCL platform and number."""
    variables = {}
    cuda = list(dict.fromkeys(id for id, _, _ in devices if id.startswith(("GPU-", "MIG-"))))
    if cuda:
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(cuda)
    platform = devices[0][1]
    if platform >= 0:
        # pyopencl's syntax: PLATFORM:DEVICE[,DEVICE]; it has none for devices of two platforms. NVIDIA's OpenCL too
        # shows only the devices of CUDA_VISIBLE_DEVICES, counted from 0 in that order (seen with driver 580).
        same = [(id, number) for id, its_platform, number in devices if its_platform == platform]
        numbers = [cuda.index(id) if id in cuda else number for id, number in same]
        variables["PYOPENCL_CTX"] = f"{platform}:{','.join(map(str, dict.fromkeys(numbers)))}"
        variables |= loader_environment()
    return variables


def loader_environment() -> dict[str, str]:
    """What the OpenCL loader of a job must be told to number the devices as here.

    Intel's CPU runtime from PyPI registers itself nowhere. It is named to the loader only where nothing else
    is registered, since naming one driver hides the system's.
    """
    if "OCL_ICD_VENDORS" in os.environ or any(_VENDORS.glob("*.icd")):
        return {}
    runtime = Path(sys.executable).parents[1] / "lib" / "libintelocl.so"
    return {"OCL_ICD_VENDORS": str(runtime)} if runtime.exists() else {}


def join(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """What a job needs in its environment that holds both leases, from what `Prepares.prepare` said of each.

    Raises `ChronosError` where no program can be held to both: one with a daemon of MPS a lease reaches neither GPU.
    """
    if one.get(_PIPE, other.get(_PIPE)) != other.get(_PIPE, one.get(_PIPE)):
        raise ChronosError(
            f"a job with leases on several GPUs cannot be held by one MPS daemon a lease ({MPS_MODE}=isolated)",
            hint=f"set {MPS_MODE}=shared on the node, or ask for one GPU",
        )
    return merge(one, other)


def merge(job: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """The job's variables with ours: lists are joined, of limits the smaller one holds, everything else is replaced.

    A job that sets CHRONOS_MPS=off gets no MPS, beside which NVIDIA's OpenCL does not run.
    """
    merged = dict(job)
    for name, value in ours.items():
        if job.get(MPS_MODE) == "off" and name.startswith("CUDA_MPS_"):
            continue
        # `job` may be os.environ, which refuses to be asked for None.
        if (renamed := _RENAMED.get(name, "")) and renamed in job:
            name = renamed
        separator = _LISTS.get(name)
        if separator and merged.get(name):
            value = separator.join(dict.fromkeys([*value.split(separator), *merged[name].split(separator)]))
        if name in _LEAST and name in merged:
            value = min(value, merged[name], key=_number)
        merged[name] = value
    return merged


def _number(text: str) -> float:
    """More than any limit, where the job's own value is no number."""
    try:
        return float(text)
    except ValueError:
        return float("inf")
