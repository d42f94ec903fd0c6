"""What an enforcer is: one way to hold jobs to their leases on a device. It stands between ledger and job.

Standard library only and light, as everything that a job's supervisor may import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cumulus.chronos.contract import Device, Health, Lease
from cumulus.resources.enforcement import Enforcement


@dataclass(frozen=True, slots=True)
class EnforcementReport:
    """How strongly something holds jobs to their leases. `remedy` says how to get more, "" where nothing would."""

    enforcement: Enforcement
    reason: str
    remedy: str = ""


class Enforcer(Protocol):
    """All calls are idempotent and take effect for jobs that start after them, if not said otherwise."""

    @property
    def name(self) -> str: ...

    @property
    def way(self) -> str:
        """By what programs reach the device where it limits them: OpenCL, CUDA."""
        ...

    def covers(self, device: Device) -> bool:
        """Whether jobs can reach the device in the way that this enforcer limits, built or not."""
        ...

    def strength(self, device: Device, home: Path) -> EnforcementReport:
        """What it can do on the device now. Never raises: what is missing is the report's reason."""
        ...

    def environment(self, lease: Lease, device: Device, home: Path, user: int | None = None) -> dict[str, str]:
        """What a job inside the lease needs in its environment; prepares what stands behind it. `user`: the number of
        the user it runs as, where that is not this process's own; None also for a container.

        Empty where it can't act. Raises `LedgerUnavailable` where `home` can't be written.
        """
        ...

    def update(self, lease: Lease, home: Path) -> None:
        """The lease was renewed or is ending: running jobs are held to that from now on."""
        ...

    def forget(self, lease_id: str, home: Path) -> None:
        """The lease has ended and its processes are gone: remove what was made for it."""
        ...

    def health(self, devices: Sequence[Device], home: Path) -> Sequence[Health]:
        """Conditions worth showing; mends what it can."""
        ...
