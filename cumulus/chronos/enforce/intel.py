"""Intel's GPUs: Level Zero lets a process choose devices and tiles (ZE_AFFINITY_MASK) but limits neither memory nor
compute, so that a Level Zero program is not held to a lease. Untested: no such GPU was at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cumulus.chronos.contract import Device, Health, Lease
from cumulus.chronos.enforce.base import EnforcementReport
from cumulus.resources.enforcement import Enforcement


class LevelZeroEnforcement:
    """Says what is not limited. OpenCL programs on the device are held by the OpenCL layer all the same."""

    name = "level-zero"
    way = "Level Zero"

    def covers(self, device: Device) -> bool:
        return device.type == "gpu" and "intel" in device.vendor.lower()

    def strength(self, device: Device, home: Path) -> EnforcementReport:
        return EnforcementReport(Enforcement.NONE, "Level Zero limits no memory; OpenCL alone can be held")

    def environment(self, lease: Lease, device: Device, home: Path, user: int | None = None) -> dict[str, str]:
        return {}

    def update(self, lease: Lease, home: Path) -> None:
        """Nothing is limited."""

    def forget(self, lease_id: str, home: Path) -> None:
        """Nothing was made."""

    def health(self, devices: Sequence[Device], home: Path) -> Sequence[Health]:
        return ()
