"""The variables by which a program knows its lease and uses the leased device, and by which `members` finds it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cumulus.chronos.lease import Device, Lease
from cumulus.lib.processes import MARKER
from cumulus.resources.enforcement import Enforcement

_VENDORS = Path("/etc/OpenCL/vendors")


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
                lease.id, lease.memory_bytes, lease.compute, lease.token, lease.expires_at, device.enforcement,
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
        MARKER: ",".join(x.id for x in leases),
        "CHRONOS_MEMORY_BYTES": ",".join(str(x.memory_bytes) for x in leases),
        "CHRONOS_COMPUTE_PERCENT": ",".join(f"{x.compute / 10:g}" for x in leases),
        "CHRONOS_EXPIRES_AT": min(x.expires_at for x in leases),
        "CHRONOS_DEVICE": ",".join(str(x.device) for x in leases),
        "CHRONOS_DEVICE_NAME": ",".join(x.device_name for x in leases),
        "CHRONOS_FENCING_TOKEN": ",".join(str(x.token) for x in leases),
        "CHRONOS_ENFORCEMENT": min((x.enforcement for x in leases), key=list(Enforcement).index).value,
    }
    seconds = [x.seconds for x in leases if x.seconds is not None]
    if seconds:
        variables["CHRONOS_LEASE_SECONDS"] = f"{min(seconds):g}"
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
