"""Enforces leases on a device, and reports honestly how strongly. Standard library only.

The way of it: `strength` goes into a device's status; a lease is granted; `environment` prepares what stands behind
it and gives the job's supervisor the variables, which `contract.variables.merge` adds to the job's own; `update` when
the lease is renewed or begins to end; `forget` when its processes are gone; `health` now and then.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cumulus.chronos.contract import Device, Health, Lease
from cumulus.chronos.contract.variables import merge
from cumulus.chronos.enforce import opencl_layer
from cumulus.chronos.enforce.amd import ComputeUnitMask
from cumulus.chronos.enforce.base import EnforcementReport, Enforcer
from cumulus.chronos.enforce.cuda_counter import CudaCounter
from cumulus.chronos.enforce.frameworks import Frameworks
from cumulus.chronos.enforce.intel import LevelZeroEnforcement
from cumulus.chronos.enforce.mps import Mps
from cumulus.chronos.enforce.opencl_layer import OpenClLayer
from cumulus.errors import ChronosError
from cumulus.resources.enforcement import Enforcement, Sharing

__all__ = [
    "EnforcementReport",
    "Enforcer",
    "environment",
    "forget",
    "health",
    "preload",
    "select",
    "strength",
    "update",
]  # fmt: skip


_HARD = "the GPU keeps its instances apart; where leases share one, their memory is counted"


def preload() -> None:
    """Find out what holds for all jobs, for a process that forks those who call `environment`."""
    opencl_layer.preload()


def select(device: Device) -> Sequence[Enforcer]:
    """The enforcers that act on the device."""
    vendor = device.vendor.lower()
    chosen: list[Enforcer] = [OpenClLayer()]
    if device.type == "gpu" and "nvidia" in vendor:
        # MPS would need a daemon for each MIG instance.
        chosen += [CudaCounter()] if device.is_instance else [CudaCounter(), Mps()]
    if device.type == "gpu" and ("amd" in vendor or "advanced micro" in vendor):
        chosen.append(ComputeUnitMask())
    if device.type == "gpu" and "intel" in vendor:
        chosen.append(LevelZeroEnforcement())
    return [*chosen, Frameworks()]


def strength(device: Device, home: Path | None = None) -> EnforcementReport:
    """How strongly jobs are held on the device: as strongly as on the weakest of the ways that lead to it.

    An NVIDIA GPU is reached by CUDA and by OpenCL. The counter and MPS each hold CUDA, the layer alone holds OpenCL.
    Whoever has a whole MIG instance is held by the GPU itself.
    """
    if device.is_instance:
        return EnforcementReport(Enforcement.HARD, f"mig: {_HARD}")
    return _counted(device, home)


def _counted(device: Device, home: Path | None) -> EnforcementReport:
    ways: dict[str, list[tuple[str, EnforcementReport]]] = {}
    for enforcer in select(device):
        if enforcer.covers(device):
            ways.setdefault(enforcer.way, []).append((enforcer.name, enforcer.strength(device, home or Path())))
    order = list(Enforcement).index
    reached = {way: max((report.enforcement for _, report in held), key=order) for way, held in ways.items()}
    weakest = min(reached.values(), key=order)
    binding = [told for way, held in ways.items() if reached[way] is weakest for told in held]
    reason = "; ".join(f"{name}: {report.reason}" for name, report in binding)
    return EnforcementReport(weakest, reason, " ".join(report.remedy for _, report in binding if report.remedy))


def environment(lease: Lease, device: Device, home: Path, user: int | None = None) -> dict[str, str]:
    """Prepare to hold a job to the lease, and what the job needs in its environment for that. Idempotent. `user`: whom
    it runs as, where that is not this process's own user.

    Raises `ChronosError` where what `strength` promises can't be set up: the job must not start then.
    """
    if device.is_instance and (lease.memory_bytes, lease.compute) != device.whole:
        report = _counted(device, home)
        if report.enforcement is Enforcement.NONE:
            what = f"nothing holds a job to a part of a MIG instance: {report.reason}"
            raise ChronosError(what, hint=f"lease the whole instance (memory: 100%). {report.remedy}".rstrip())
    whole = (lease.memory_bytes, lease.compute) == device.whole
    if lease.sharing is Sharing.PARKABLE and CudaCounter().covers(device) and not whole:
        report = CudaCounter().strength(device, home)
        if report.enforcement is Enforcement.NONE:
            raise ChronosError(
                f"nothing would hold a parkable lease to its memory, which has no MPS: {report.reason}",
                hint=f"{report.remedy} Or ask for sharing: Concurrent",
            )
    variables: dict[str, str] = {}
    for enforcer in select(device):
        variables = merge(variables, enforcer.environment(lease, device, home, user))
    return variables


def update(lease: Lease, device: Device, home: Path) -> None:
    """The lease was renewed or is ending: hold its running jobs to that from now on."""
    for enforcer in select(device):
        enforcer.update(lease, home)


def forget(lease_id: str, device: Device, home: Path) -> None:
    """The lease has ended and its processes are gone: remove what was made for it."""
    for enforcer in select(device):
        enforcer.forget(lease_id, home)


def health(devices: Sequence[Device], home: Path) -> Sequence[Health]:
    """Conditions of the node's enforcement, one a type; what is down and can be started again is."""
    conditions: dict[str, Health] = {}
    for device in devices:
        for enforcer in select(device):
            for condition in enforcer.health(devices, home):
                conditions.setdefault(condition.type, condition)
    return tuple(conditions.values())
