"""What controllers need from the cluster of a container engine: its machines, and a few requests to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

RUNTIME = "container"
"""What a machine of a cluster offers while the engine takes new work there."""


class Machine(Protocol):
    """One machine of the cluster, as its engine tells."""

    @property
    def id(self) -> str:
        """The cluster's own name for it, which stays when the host is renamed."""
        ...

    @property
    def name(self) -> str:
        """No other machine has it."""
        ...

    @property
    def pinned(self) -> bool:
        """Whether the cluster remembers that name for that id."""
        ...

    @property
    def hostname(self) -> str: ...
    @property
    def role(self) -> str:
        """worker or manager."""
        ...

    @property
    def address(self) -> str: ...
    @property
    def state(self) -> str:
        """ready, down, or another word of the engine's."""
        ...

    @property
    def availability(self) -> str:
        """active, pause or drain."""
        ...

    @property
    def labels(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class ProgramsAnswer:
    """Whether programs of a machine's own disk run there: `why` not, "" where they do, and then for each user that was
    asked about why not, in the same order."""

    why: str
    users: tuple[str, ...] = ()


class Cluster(Protocol):
    """Raises `BackendError`, `NotOurs` where it belongs to another control plane."""

    @property
    def confirmed(self) -> bool:
        """Whether it was this control plane's when it was looked at last. Asks nobody."""
        ...

    def machines(self) -> Sequence[Machine]: ...

    def programs(self, name: str, users: Sequence[tuple[str, int]]) -> ProgramsAnswer:
        """`users`: names and numbers. The machine itself is asked."""
        ...

    def tell(self, name: str, labels: Mapping[str, str]) -> None:
        """Make these the machine's labels that begin with `gpu.`; the others stay."""
        ...

    def pin(self, id: str, name: str) -> None:
        """Let the cluster remember the name for the id, and for no other one."""
        ...

    def remove(self, name: str) -> str:
        """Take the machine out of the cluster. What came of it, for people."""
        ...


def runs_containers(cluster: Cluster, name: str) -> bool:
    """Whether the engine takes new containers on the machine of that name."""
    return any(m.name == name and m.state == "ready" and m.availability == "active" for m in cluster.machines())
