"""AMD's GPUs: compute-unit masks (HSA_CU_MASK for ROCm and HIP, ROC_GLOBAL_CU_MASK for OpenCL).

A mask names the compute units that a process may use, so each lease gets a range of its own. Memory of HIP programs
is not limited by anything that AMD's runtimes offer: hence `none`. Untested: no such GPU was at hand; the formats are
those of ROCm's documentation ("Setting the number of compute units") and of the kernel's amdkfd topology.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cumulus.chronos.contract import FULL_COMPUTE, Device, Health, Lease
from cumulus.chronos.enforce.base import EnforcementReport
from cumulus.errors import LedgerUnavailable
from cumulus.lib import locks
from cumulus.resources.enforcement import Enforcement

_LOCK_SECONDS = 5.0
TOPOLOGY = Path("/sys/class/kfd/kfd/topology/nodes")

Ranges = dict[str, tuple[int, int]]
"""First compute unit and how many, by lease."""


class ComputeUnitMask:
    """Leases of one device get ranges that do not overlap, kept under the ledger's directory."""

    name = "compute-unit-mask"
    way = "HIP"

    def __init__(self, topology: Path = TOPOLOGY) -> None:
        self._topology = topology

    def covers(self, device: Device) -> bool:
        return device.type == "gpu" and any(name in device.vendor.lower() for name in ("amd", "advanced micro"))

    def strength(self, device: Device, home: Path) -> EnforcementReport:
        return EnforcementReport(
            Enforcement.NONE, "HIP programs get compute units of their own, but their memory is not limited"
        )

    def environment(self, lease: Lease, device: Device, home: Path, user: int | None = None) -> dict[str, str]:
        units = compute_units(device, self._topology)
        if units == 0 or lease.compute == FULL_COMPUTE:
            return {}
        with _ranges(home, device.id) as ranges:
            if lease.id not in ranges:
                ranges[lease.id] = _place(max(units * lease.compute // FULL_COMPUTE, 1), units, ranges)
            first, count = ranges[lease.id]
        mask = ((1 << count) - 1) << first
        # Number 0 among the visible ones, as the job sees its device.
        return {"HSA_CU_MASK": f"0:{first}-{first + count - 1}", "ROC_GLOBAL_CU_MASK": hex(mask)}

    def update(self, lease: Lease, home: Path) -> None:
        """A lease's share never changes."""

    def forget(self, lease_id: str, home: Path) -> None:
        for path in sorted((home / "compute-units").glob("*.json")):
            with _open(path) as ranges:
                ranges.pop(lease_id, None)

    def health(self, devices: Sequence[Device], home: Path) -> Sequence[Health]:
        return ()


def compute_units(device: Device, topology: Path = TOPOLOGY) -> int:
    """Of the GPU at the device's PCI address, from amdkfd's topology; 0 where it is not known."""
    address = re.fullmatch(r"pci-([0-9a-f]{4}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", device.id)
    if address is None:
        return 0
    domain, bus, slot, function = (int(part, 16) for part in address.groups())
    for node in sorted(topology.glob("*/properties")):
        properties = dict(line.split(maxsplit=1) for line in node.read_text().splitlines() if " " in line)
        numbers = {name: int(value) for name, value in properties.items() if value.strip().isdigit()}
        same = numbers.get("location_id") == bus << 8 | slot << 3 | function and numbers.get("domain", 0) == domain
        if same and numbers.get("simd_per_cu"):
            return numbers.get("simd_count", 0) // numbers["simd_per_cu"]
    return 0


def _place(count: int, units: int, ranges: Ranges) -> tuple[int, int]:
    """The first gap that is wide enough; where rounding or gaps leave none, the place with the least overlap."""
    taken = [sum(1 for first, length in ranges.values() if first <= unit < first + length) for unit in range(units)]
    starts = range(units - count + 1)
    return min(starts, key=lambda start: (sum(taken[start : start + count]), start)), count


@contextmanager
def _ranges(home: Path, device_id: str) -> Iterator[Ranges]:
    directory = home / "compute-units"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / f"{hashlib.sha256(device_id.encode()).hexdigest()[:16]}.json"
        path.touch(mode=0o600)
    except OSError as error:
        raise LedgerUnavailable(f"{directory}: {error.strerror}") from error
    with _open(path) as ranges:
        yield ranges


@contextmanager
def _open(path: Path) -> Iterator[Ranges]:
    """The file's ranges, written back at the end. One process at a time."""
    with path.open("r+") as file:
        if not locks.acquire(file.fileno(), _LOCK_SECONDS):
            who, fix = locks.blame(path)
            raise LedgerUnavailable(
                f"{path} has been locked for {_LOCK_SECONDS:g} s by {who}",
                hint=fix,
            )
        text = file.read()
        ranges: Ranges = {lease: (first, count) for lease, (first, count) in json.loads(text or "{}").items()}
        yield ranges
        file.seek(0)
        file.truncate()
        json.dump(ranges, file)
