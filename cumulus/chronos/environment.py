"""The variables by which a program knows its lease and uses the leased device, and by which `members` finds it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cumulus.chronos.lease import Device, Lease
from cumulus.lib.processes import MARKER

_VENDORS = Path("/etc/OpenCL/vendors")


def of_lease(lease: Lease, device: Device) -> dict[str, str]:
    """What a process inside the lease gets beside its own environment."""
    variables = {
        MARKER: lease.id,
        "CHRONOS_MEMORY_BYTES": str(lease.memory_bytes),
        "CHRONOS_COMPUTE_PERCENT": f"{lease.compute / 10:g}",
        "CHRONOS_EXPIRES_AT": lease.expires_at,
        "CHRONOS_DEVICE": str(lease.device),
        "CHRONOS_DEVICE_NAME": device.name,
        "CHRONOS_FENCING_TOKEN": str(lease.token),
        "CHRONOS_ENFORCEMENT": device.enforcement.value,
    }
    return variables | selection([(device.id, device.platform_index, device.device_index)])


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
