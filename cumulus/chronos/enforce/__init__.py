"""Holding jobs to their leases on a device, and saying honestly how strongly. Standard library only.

The way of it: `strength` goes into a device's status; a lease is granted; `environment` prepares what stands behind
it and gives the job's supervisor the variables to `merge` into the job's own; `update` when the lease is renewed or
begins to end; `forget` when its processes are gone; `health` now and then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cumulus.chronos.enforce.amd import ComputeUnitMask
from cumulus.chronos.enforce.base import Enforcer, Report
from cumulus.chronos.enforce.frameworks import Frameworks
from cumulus.chronos.enforce.intel import LevelZero
from cumulus.chronos.enforce.mps import MODE, Mps
from cumulus.chronos.enforce.opencl_layer import OpenClLayer
from cumulus.chronos.lease import Device, Health, Lease
from cumulus.errors import ChronosError
from cumulus.resources.enforcement import Enforcement

__all__ = [
    "Enforcer", "Report", "environment", "forget", "health", "join", "merge", "select", "strength", "update",
]  # fmt: skip

_PIPE = "CUDA_MPS_PIPE_DIRECTORY"
_LISTS = {
    "PYTHONPATH": ":",
    "LD_LIBRARY_PATH": ":",
    "OPENCL_LAYERS": ":",
    "CHRONOS_ACCOUNT": ":",
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


def select(device: Device) -> Sequence[Enforcer]:
    """The enforcers that act on the device."""
    vendor = device.vendor.lower()
    chosen: list[Enforcer] = [OpenClLayer()]
    if device.type == "gpu" and "nvidia" in vendor:
        chosen.append(Mps())
    if device.type == "gpu" and ("amd" in vendor or "advanced micro" in vendor):
        chosen.append(ComputeUnitMask())
    if device.type == "gpu" and "intel" in vendor:
        chosen.append(LevelZero())
    return [*chosen, Frameworks()]


def strength(device: Device, home: Path | None = None) -> Report:
    """How strongly jobs are held on the device: as strongly as on the weakest of the ways that lead to it.

    An NVIDIA GPU is reached by CUDA and by OpenCL: with the layer and without MPS it is `none`, and the reverse.
    """
    ways = [(e.name, e.strength(device, home or Path())) for e in select(device) if e.covers(device)]
    weakest = min((report.enforcement for _, report in ways), key=list(Enforcement).index)
    binding = [(name, report) for name, report in ways if report.enforcement is weakest]
    reason = "; ".join(f"{name}: {report.reason}" for name, report in binding)
    return Report(weakest, reason, " ".join(report.remedy for _, report in binding if report.remedy))


def environment(lease: Lease, device: Device, home: Path) -> dict[str, str]:
    """Prepare to hold a job to the lease, and what the job needs in its environment for that. Idempotent.

    Raises `ChronosError` where what `strength` promises can't be set up: the job must not start then.
    """
    variables: dict[str, str] = {}
    for enforcer in select(device):
        variables = merge(variables, enforcer.environment(lease, device, home))
    return variables


def join(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """What a job needs in its environment that holds both leases, from what `environment` said of each.

    Raises `ChronosError` where no program can be held to both: one with a daemon of MPS a lease reaches neither GPU.
    """
    if one.get(_PIPE, other.get(_PIPE)) != other.get(_PIPE, one.get(_PIPE)):
        raise ChronosError(
            f"a job with leases on several GPUs cannot be held by one MPS daemon a lease ({MODE}=isolated)",
            hint=f"set {MODE}=shared on the node, or ask for one GPU",
        )
    return merge(one, other)


def merge(job: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """The job's variables with ours: lists are joined, of limits the smaller one holds, everything else is replaced.

    A job that sets CHRONOS_MPS=off gets no MPS, beside which NVIDIA's OpenCL does not run.
    """
    merged = dict(job)
    for name, value in ours.items():
        if job.get(MODE) == "off" and name.startswith("CUDA_MPS_"):
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
