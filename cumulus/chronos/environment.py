"""The variables by which a program knows its lease and uses the leased device, and by which `members` finds it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cumulus.chronos.lease import Device, Lease
from cumulus.chronos.processes import MARKER

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
    if device.platform_index >= 0:
        variables["PYOPENCL_CTX"] = f"{device.platform_index}:{device.device_index}"
        variables |= loader_environment()
    if device.vendor == "NVIDIA":
        variables["CUDA_VISIBLE_DEVICES"] = device.id
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
