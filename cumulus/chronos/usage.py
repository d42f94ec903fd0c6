"""How much leases use of what they leased, for `chronos_cli stats` and `metrics`. Not part of enforcement.

NVIDIA's driver tells it by process, for clients of MPS memory only; elsewhere the OpenCL layer's account of the lease
does, and of memory only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cumulus.chronos import nvml
from cumulus.chronos.contract import FULL_COMPUTE, Device, Lease
from cumulus.chronos.database import Database
from cumulus.chronos.enforce import account
from cumulus.chronos.lease_processes import LeaseProcesses
from cumulus.chronos.process_owners import ProcessOwners

_COMPUTE_ALLOWANCE = 100
"""Thousandths: the driver samples a few times a second."""


@dataclass(frozen=True, slots=True)
class LeaseUsage:
    """A lease and what its processes use: bytes, and thousandths of the device. None where nobody knows."""

    lease: Lease
    memory_bytes: int | None = None
    compute: int | None = None
    """The part of the last second or two in which it kept the device busy, with however many multiprocessors."""
    source: str = ""
    """`driver`, `account`, or "" where there is neither."""

    @property
    def idle_memory_bytes(self) -> int | None:
        """Leased and not used; nothing of one that is parked, which has no share."""
        if not self.lease.holds_share:
            return 0
        return None if self.memory_bytes is None else max(0, self.lease.memory_bytes - self.memory_bytes)

    @property
    def idle_compute(self) -> int | None:
        """Leased and not used."""
        if not self.lease.holds_share:
            return 0
        return None if self.compute is None else max(0, self.lease.compute - self.compute)

    @property
    def over(self) -> bool:
        """Whether it holds more memory than it leased."""
        return self.memory_bytes is not None and self.memory_bytes > self.lease.memory_bytes

    @property
    def over_compute(self) -> bool:
        """Whether it keeps the device busy for more than the part of its compute that it leased. Nobody is ended for
        that: a device with idle neighbours may well give it."""
        return self.compute is not None and self.compute > self.lease.compute + _COMPUTE_ALLOWANCE


@dataclass(frozen=True, slots=True)
class NodeUsage:
    """`devices` has what is used of those on which the driver tells it, by id."""

    leases: Sequence[LeaseUsage]
    devices: Mapping[str, nvml.Utilization]


def measure(database: Database, devices: Iterable[Device], leases: Sequence[Lease]) -> NodeUsage:
    """Now. Asks NVIDIA's driver once where there is such a device, which takes up to a second."""
    told = nvml.read_utilization() if any("nvidia" in device.vendor.lower() for device in devices) else {}
    owners = ProcessOwners(database.home)
    with database.read() as db:
        owners.learn([LeaseProcesses.load(db, lease.id) for lease in leases if lease.device_id in told])
    found = []
    for lease in leases:
        if not lease.holds_share:
            # Its account tells what it had before it was parked.
            found.append(LeaseUsage(lease, 0, 0))
        elif lease.device_id in told:
            device = told[lease.device_id]
            found.append(
                _by_process(lease, [pid for pid in device.processes if lease.id in (owners.of(pid) or ())], device)
            )
        else:
            found.append(_by_account(lease, database.home))
    return NodeUsage(found, {id: use.whole for id, use in told.items()})


def _by_process(lease: Lease, pids: Iterable[int], device: nvml.DeviceUtilization) -> LeaseUsage:
    uses = [device.processes[pid] for pid in pids]
    compute = [use.compute for use in uses]
    known = min(sum(filter(None, compute)), FULL_COMPUTE) if None not in compute else None
    return LeaseUsage(lease, sum(use.memory_bytes for use in uses), known, "driver")


def _by_account(lease: Lease, home: Path) -> LeaseUsage:
    if not account.directory(home, lease.id).is_dir():
        return LeaseUsage(lease)
    return LeaseUsage(lease, sum(account.used(lease.id, home).values()), None, "account")
