"""What is known of a lease's processes before they are parked: from /proc, NVML, the driver and the lease's account."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cumulus.chronos.device_processes import DeviceHeld, DeviceProcesses
from cumulus.chronos.enforce import account
from cumulus.chronos.enforce.account import Allocates
from cumulus.chronos.lease_processes import LeaseProcesses
from cumulus.chronos.parking.check import ProcessEvidence
from cumulus.chronos.parking.checkpoint_client import CheckpointClient, DriverSilent
from cumulus.chronos.process_owners import ProcessOwners
from cumulus.chronos.snapshot import ProcessSnapshot
from cumulus.lib import cgroup, processes
from cumulus.lib.processes import ProcessIdentity

PLAIN = "cuda"
"""The framework of a program that has none of those that are known."""

UNSEEN = "unknown"
"""That of a program of which nobody sees what it has loaded, as after its first thread has ended: never proven."""

_FRAMEWORKS = {
    b"/libtorch_": "torch", b"/torch/lib/": "torch",
    b"/cupy/": "cupy", b"/jaxlib/": "jax", b"jax_cuda": "jax", b"xla_cuda": "jax",
    b"libtensorflow": "tensorflow", b"_pywrap_tensorflow": "tensorflow",
    b"/numba/": "numba", b"/paddle/": "paddle", b"libonnxruntime": "onnxruntime", b"libggml-cuda": "ggml",
    b"libnvidia-opencl": "opencl",
}  # fmt: skip
"""By what stands in the name of a file that a process has mapped."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one lease at one moment."""

    processes: tuple[ProcessEvidence, ...]
    complete: bool
    """Whether no process was started meanwhile."""
    driver: str
    """Version; "" where NVML does not tell."""
    untold: int = 0
    """Processes on the device whose memory the driver does not tell."""

    @property
    def held_bytes(self) -> int:
        return sum(each.held_bytes for each in self.processes)

    @property
    def movable(self) -> list[ProcessEvidence]:
        return [each for each in self.processes if each.cuda]


class Investigator:
    """Looks at the processes of leases. For one thread."""

    def __init__(self, home: Path, reader: DeviceProcesses, client: CheckpointClient) -> None:
        self._home = home
        self._reader = reader
        self._client = client
        self._owners = ProcessOwners(home)

    def look(
        self, lease: LeaseProcesses, all_leases: Iterable[LeaseProcesses], device: str, gpus: Collection[str]
    ) -> Evidence:
        """`gpus`: the ids of all GPUs here. Raises DriverSilent."""
        self._owners.learn(list(all_leases))
        held = self._reader.look(sorted({device, *gpus}))
        clients = self._reader.clients([device])
        if held is None or clients is None or device not in held or held[device].lost:
            raise DriverSilent("the driver does not tell what processes hold")
        snapshot = ProcessSnapshot(home=self._home)
        members = lease.members(snapshot) | snapshot.identities(self._listed(lease.id, held))
        cuda = self._client.using_cuda(members)
        noted = self._noted(lease.id, members)
        here = held[device].processes
        found = tuple(
            ProcessEvidence(
                who, who in cuda,
                here.get(who.pid, 0), _elsewhere(who.pid, device, held), who.pid in clients[0].get(device, ()),
                self._owners.of(who.pid) or frozenset({lease.id}),
                frameworks_of(who.pid) if who in cuda else frozenset(), noted.get(who),
            )
            for who in sorted(members)
        )  # fmt: skip
        return Evidence(found, snapshot.complete, clients[1], held[device].untold)

    def held(self, device: str) -> DeviceHeld:
        """What is held of the device now. Raises DriverSilent."""
        found = self._reader.look([device])
        if found is None or device not in found:
            raise DriverSilent("the driver does not tell what processes hold")
        return found[device]

    def _listed(self, lease: str, held: Mapping[str, DeviceHeld]) -> set[int]:
        """Those that a driver lists and that run in the lease, wherever they have gone."""
        pids = {pid for device in held.values() for pid in device.processes}
        return {pid for pid in pids if lease in (self._owners.of(pid) or ())}

    def _noted(self, lease: str, members: Iterable[ProcessIdentity]) -> dict[ProcessIdentity, Allocates]:
        """What the counting library noted of each."""
        by_name = account.noted(lease, self._home)
        return {who: by_name[name] for who in members if (name := _name_of(who.pid)) in by_name}


def frameworks_of(pid: int) -> frozenset[str]:
    """What the process has loaded of the frameworks that are known, or the plain driver."""
    mapped = processes.content(f"/proc/{pid}/maps")
    if not mapped:
        return frozenset({UNSEEN})
    return frozenset(name for mark, name in _FRAMEWORKS.items() if mark in mapped) or frozenset({PLAIN})


def freezable(members: Collection[ProcessIdentity]) -> tuple[str, ...] | None:
    """The cgroups in which they are, and nobody else is; None where one of them is in another."""
    pids = {who.pid for who in members}
    found: set[str] = set()
    for who in members:
        place = cgroup.directory_of(who.pid)
        if place is None or not os.path.exists(f"{place}/cgroup.freeze") or not cgroup.members(place) <= pids:
            return None
        found.add(place)
    return tuple(sorted(found))


def _elsewhere(pid: int, device: str, held: Mapping[str, DeviceHeld]) -> int:
    return sum(each.processes.get(pid, 0) for id, each in held.items() if id != device)


def _name_of(pid: int) -> tuple[int, int]:
    """What the process is called in its own PID namespace, with the number of that."""
    namespace = processes.pid_namespace(pid)
    number = int(namespace.removeprefix("pid:[").removesuffix("]")) if namespace.startswith("pid:[") else 0
    names = processes.status_field(pid, b"NSpid:")
    return int(names[-1]) if names else pid, number
