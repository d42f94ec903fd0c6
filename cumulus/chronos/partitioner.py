"""`Partitioner`: leases from Python, with the names of chronos-gpu on PyPI, so that its users' programs run.

    with Partitioner().create(device=0, memory=0.5, duration=3600) as p:
        train()

Unlike there, a lease is durable and enforced: it is tied to this process, which is ended (SIGTERM, the grace
period, SIGKILL) when the lease expires, and the lease is released when this process ends without doing so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cumulus.chronos import lease_args, records
from cumulus.chronos.contract import FULL_COMPUTE, Device, Lease, variables
from cumulus.chronos.ledger import Ledger
from cumulus.errors import NoSuchLease
from cumulus.lib import safe_output


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """A live lease."""

    partition_id: str
    device_index: int
    memory_fraction: float
    memory_bytes: int
    duration_seconds: float
    time_remaining_seconds: float
    username: str
    process_id: int
    """Its first attached process, 0 where there is none."""
    active: bool
    """False while its processes are being ended."""


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """A device and what of it is free: fractions in [0, 1]."""

    index: int
    name: str
    type: str
    memory_bytes: int
    free_memory_bytes: int
    available: float
    available_compute: float
    partitions: int


class Partition:
    """A lease held by this process. As a context manager it is released at the end of the block."""

    def __init__(self, partitioner: Partitioner, lease: Lease, device: Device, seconds: float) -> None:
        self._partitioner = partitioner
        self._device = device
        self.partition_id = lease.id
        self.device = lease.device
        self.memory_bytes = lease.memory_bytes
        self.memory_fraction = lease.memory_bytes / device.memory_bytes
        self.duration = seconds
        self.token = lease.token

    @property
    def time_remaining(self) -> float:
        """Seconds left, 0 when it has ended. Of one that is parked, those of its parking."""
        lease = self._partitioner.ledger.get(self.partition_id)
        return max(0.0, lease.expires_in) if lease is not None and lease.state.goes_on else 0.0

    def is_active(self) -> bool:
        """Whether it goes on: parked too, since what is asked of the GPU meanwhile waits."""
        return self.time_remaining > 0

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a child process that is to run inside the lease. Raises `NoSuchLease` once it is forgotten."""
        lease = self._partitioner.ledger.get(self.partition_id)
        if lease is None:
            raise NoSuchLease(f"there is no lease {self.partition_id}")
        return variables.of_lease(lease, self._device)

    def renew(self, duration: float | str) -> None:
        """Let it end `duration` from now, if that is later than it would. Raises `NoSuchLease` where it has ended."""
        self._partitioner.ledger.renew(self.partition_id, lease_args.seconds(duration))

    def release(self) -> None:
        """Give the share back now; this process goes on. Asking again is harmless."""
        self._partitioner.ledger.detach(self.partition_id, os.getpid())
        self._partitioner.ledger.release(self.partition_id)

    def __enter__(self) -> Partition:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Partition {self.partition_id}: {self.memory_fraction:.0%} of device {self.device}>"


class Partitioner:
    """Makes and lists leases on this machine's devices. Every method may raise `LedgerUnavailable`."""

    def __init__(self, home: str | Path | None = None) -> None:
        """`home`: the ledger's directory, by default CHRONOS_HOME or what `home.default_home` says."""
        self.ledger = Ledger(Path(home) if home is not None else None)

    def close(self) -> None:
        """Close the ledger's files; leases live on. Each `Partitioner` keeps a few descriptors open until then."""
        self.ledger.close()

    def create(
        self,
        device: int = 0,
        memory: float | str = 1.0,
        duration: float | str = 3600,
        user: str | None = None,
        *,
        compute: float | str | None = None,
        grace: float | str = lease_args.GRACE,
        enforce: bool = True,
    ) -> Partition:
        """Lease a share of `device` for this process.

        `memory` is a fraction in (0, 1], a percentage "50%" or a size "20Gi"; `duration` is seconds or "1h30m";
        `compute` is a fraction or percentage, by default as much as memory. With `enforce` False this process is
        not ended at expiry (a notebook, say), and the lease does not end with this process.

        Raises `NoSuchDevice`, `InsufficientShare`, `UsageError`.
        """
        lease, found = self._grant(device, memory, duration, user, compute, grace)
        if enforce:
            self.ledger.attach(lease.id, os.getpid(), lease.token, role="holder")
        return Partition(self, lease, found, lease.expires_in)

    def create_raw(
        self, device: int = 0, memory: float | str = 1.0, duration: float | str = 3600, user: str | None = None
    ) -> str:
        """A lease tied to no process: its partition id, to hand to others, who release it or let it expire."""
        return self._grant(device, memory, duration, user, None, lease_args.GRACE)[0].id

    def release(self, partition_id: str) -> bool:
        """End a lease and the processes attached to it. False where there is none of that id."""
        self.ledger.detach(partition_id, os.getpid())
        return self.ledger.release(partition_id) is not None

    def list(self) -> Sequence[PartitionInfo]:
        """The live leases of all users."""
        memory = {d.id: d.memory_bytes for d in self.ledger.devices()}
        leases = self.ledger.list()
        with self.ledger.database.read() as db:
            processes = {lease.id: records.processes_of(db, lease.id) for lease in leases}
            seconds = dict(db.execute(f"SELECT id, seconds FROM lease WHERE {records.LIVE}").fetchall())
        return [
            PartitionInfo(
                partition_id=lease.id,
                device_index=lease.device,
                memory_fraction=lease.memory_bytes / memory.get(lease.device_id, lease.memory_bytes),
                memory_bytes=lease.memory_bytes,
                duration_seconds=seconds.get(lease.id, 0.0),
                time_remaining_seconds=max(0.0, lease.expires_in),
                username=lease.user,
                process_id=processes[lease.id][0].pid if processes[lease.id] else 0,
                active=lease.state.goes_on,
            )
            for lease in leases
        ]

    def stats(self) -> Sequence[DeviceStats]:
        """Each device with what is free of it."""
        leases = self.ledger.list()
        result = []
        for device in self.ledger.devices():
            usage = self.ledger.usage(device.index)
            free = device.memory_bytes - usage.memory_bytes
            result.append(
                DeviceStats(
                    index=device.index,
                    name=device.name,
                    type=device.type,
                    memory_bytes=device.memory_bytes,
                    free_memory_bytes=free,
                    available=free / device.memory_bytes,
                    available_compute=(FULL_COMPUTE - usage.compute) / FULL_COMPUTE,
                    partitions=sum(lease.device_id == device.id for lease in leases),
                )
            )
        return result

    def available(self, device: int = 0) -> float:
        """The fraction of the device's memory that is free. Raises `NoSuchDevice`."""
        found = lease_args.choose(self.ledger.devices(), device)
        return 1 - self.ledger.usage(found.index).memory_bytes / found.memory_bytes

    def get_available(self, device: int) -> float:
        """chronos-gpu's name for `available`."""
        return self.available(device)

    def show_stats(self) -> None:
        """Print the devices and what is free of them."""
        for row in self.stats():
            safe_output.line(
                sys.stdout, f"{row.index}: {row.name}: {row.available:.0%} of {row.memory_bytes} bytes free"
            )

    def _grant(
        self,
        device: int,
        memory: float | str,
        duration: float | str,
        user: str | None,
        compute: float | str | None,
        grace: float | str,
    ) -> tuple[Lease, Device]:
        found = lease_args.choose(self.ledger.devices(), device)
        asked = lease_args.request(found, memory, duration, compute=compute, grace=grace, user=user)
        return self.ledger.grant(asked), found
