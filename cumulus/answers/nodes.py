"""What adding, setting up, draining and removing a node ask and tell, step by step. The words are the caller's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cumulus.errors import InvalidObject


@dataclass(frozen=True, slots=True)
class DirectoryOnNode:
    """Why a directory of the node is not the one that was meant, "" where it is."""

    node: str
    problem: str


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """`ssh`: USER@HOST[:PORT]. `key_secret`: the secret that holds the private key. `chronos_cli`: what runs it there.
    What is empty stays as the node has it, or as is usual."""

    ssh: str
    key_secret: str = ""
    chronos_cli: str = ""


@dataclass(frozen=True, slots=True)
class HostKey:
    """A key that a machine's sshd shows. `host`: as known_hosts names the machine; `fingerprint`: as OpenSSH shows it,
    SHA256:… (TYPE)."""

    host: str
    type: str
    base64: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class WorkerFound:
    """A machine that can be added. `trusted`: whether its key is known already."""

    key: HostKey
    trusted: bool
    damaged: tuple[InvalidObject, ...] = ()
    """Stored nodes that had to be left out where it was compared with them."""


NodeChange = Literal["added", "changed", "unchanged"]


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """One that a worker offers."""

    index: int
    name: str
    memory_bytes: int
    enforcement: str


@dataclass(frozen=True, slots=True)
class WorkerAnswer:
    """What a worker says of itself. `clock_skew`: seconds that its clock is ahead. `wanted_version`: of Chronos, as the
    server has it."""

    hostname: str
    chronos_version: str
    wanted_version: str
    clock_skew: float | None
    devices: tuple[WorkerDevice, ...]


@dataclass(frozen=True, slots=True)
class WorkerSaid:
    """Lines that the set-up printed on the worker."""

    text: str


SetupStep = WorkerSaid | WorkerAnswer


@dataclass(frozen=True, slots=True)
class Cordoned:
    """Nothing new is placed on the node."""


@dataclass(frozen=True, slots=True)
class NodeHolds:
    """So many leases have to end yet. Said again while nothing changes."""

    leases: int


@dataclass(frozen=True, slots=True)
class Drained:
    """The last lease of this store has ended. `foreign`: leases made on the node itself go on, the last until
    `last_ends`."""

    foreign: int = 0
    last_ends: str = ""


DrainStep = Cordoned | NodeHolds | Drained


@dataclass(frozen=True, slots=True)
class DrainPlanned:
    """So many leases of the node go on into the drain, the last until `last_ends`, as far as who asks may see them."""

    leases: int = 0
    last_ends: str = ""


@dataclass(frozen=True, slots=True)
class LeasesForgotten:
    """So many leases are no longer this store's, and go on there where the node lives."""

    leases: int


@dataclass(frozen=True, slots=True)
class Removed:
    """`note`: how it left its cluster, "" where it was in none."""

    note: str = ""


RemoveStep = LeasesForgotten | Removed
