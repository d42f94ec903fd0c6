"""The CUDA counter as an enforcer: finds the built library and preloads it into jobs on NVIDIA's GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cumulus.chronos.contract import Device, Health, Lease
from cumulus.chronos.contract.variables import ACCOUNT, CUDA_COUNTER, PRELOAD
from cumulus.chronos.enforce import account
from cumulus.chronos.enforce.base import EnforcementReport
from cumulus.chronos.enforce.library import Library
from cumulus.chronos.settings import LocalSettings
from cumulus.resources.enforcement import Enforcement
from cumulus.resources.reasons import EnforcementReason, NodeCondition

LIBRARY = Library("CUDA counter", "libchronos_cuda_counter.so", "cuMemAlloc_v2", CUDA_COUNTER, " :")


class CudaCounter:
    """Counts and refuses CUDA memory over the lease, in all of its processes together, beside what OpenCL takes of it.

    Guarded and never hard: a program that is linked statically with libc, or that unsets LD_PRELOAD, is not seen.
    """

    name = "cuda-counter"
    way = "CUDA"

    def covers(self, device: Device) -> bool:
        return device.type == "gpu" and "nvidia" in device.vendor.lower()

    def strength(self, device: Device, home: Path) -> EnforcementReport:
        library, problem = find()
        if library is None:
            return EnforcementReport(
                Enforcement.NONE, f"{problem}: no limit holds the processes of a lease together", LIBRARY.remedy
            )
        return EnforcementReport(Enforcement.GUARDED, "CUDA memory is counted over the lease's processes")

    def environment(self, lease: Lease, device: Device, home: Path, user: int | None = None) -> dict[str, str]:
        library, _ = find() if self.covers(device) else (None, "")
        if library is None:
            return {}
        place = account.open_account(lease, device, home, user=user)
        return {PRELOAD: str(LIBRARY.shown(library, place, user)), ACCOUNT: str(place)}

    def update(self, lease: Lease, home: Path) -> None:
        account.update(lease, home)

    def forget(self, lease_id: str, home: Path) -> None:
        account.close_account(lease_id, home)

    def health(self, devices: Sequence[Device], home: Path) -> Sequence[Health]:
        if not any(map(self.covers, devices)):
            return ()
        library, problem = find()
        if library is None:
            return _counter(False, EnforcementReason.NOT_BUILT, f"{problem}. {LIBRARY.remedy}")
        return _counter(True, EnforcementReason.FOUND, str(library))


def find() -> tuple[Path | None, str]:
    """The library, or None and why."""
    return LIBRARY.find(LocalSettings.read().cuda_counter)


def _counter(status: bool, reason: EnforcementReason, message: str) -> Sequence[Health]:
    return (Health(NodeCondition.CUDA_COUNTER, status, reason, message),)
