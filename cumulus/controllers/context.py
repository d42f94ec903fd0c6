"""Everything that the controllers of one term are built from, with its type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cumulus.backends.base import Backend
from cumulus.backends.cluster import Cluster
from cumulus.blob.base import BlobStore
from cumulus.gitops.room import SourceRoom
from cumulus.history.follower import HistoryFollower
from cumulus.machinery.controller import BaseContext, Channel
from cumulus.nodes.agent import Agents
from cumulus.scheduling.cycle import Binding, Refusal
from cumulus.scheduling.policy import DEFAULT, Policies

Placed = Callable[[Sequence[Binding], Sequence[Refusal], datetime], None]
"""Told what a placement cycle bound, what it let wait, and when that was. It must not block."""


def nobody_told(bindings: Sequence[Binding], refusals: Sequence[Refusal], now: datetime) -> None:
    """A `Placed` for where nobody measures."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A deleted job whose checkpoints in the daemon's bucket are to go. `noted`: since when; `done`: they went once."""

    namespace: str
    job: str
    uid: str
    noted: str
    done: bool = False


class Removals(Protocol):
    """What is to be deleted of the daemon's bucket, kept over restarts."""

    def note(self, namespace: str, job: str, uid: str) -> None: ...

    def noted(self) -> Sequence[Removal]: ...

    def remove(self, one: Removal) -> int:
        """How many objects went. Raises CumulusError where the bucket does not answer."""

    def forget(self, one: Removal) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerContext(BaseContext):
    agents: Agents
    """The nodes that this daemon looks after."""
    backends: Mapping[str, Backend]
    """By runtime: process, container."""
    cluster: Cluster | None
    """The container engine's, where there is one."""
    cluster_user: str
    """Whom to be, over SSH, on its machines."""
    owner: str
    """The mark that this store's controllers put on the leases they ask nodes for."""
    placed: Placed = nobody_told
    """Told what each placement cycle decided."""
    sources: SourceRoom | None = None
    """What Sources are read with. None: nothing looks at them."""
    policies: Policies = DEFAULT
    """How the queue is served."""
    blobs: BlobStore | None = None
    """What calls take and give; None where there are none."""
    blob_retention: float = 86400.0
    """Seconds since its last use for which a blob is kept that no job names."""
    checkpoint_bucket: str = ""
    """Where jobs keep their checkpoints that name no place; "" for nowhere."""
    removals: Removals | None = None
    """Checkpoints of deleted jobs; None where there is no bucket of the daemon's."""
    history: HistoryFollower | None = None
    """What keeps the history; None: nobody does."""
    shared_directories: tuple[str, ...] = ()
    """Directories that are the same on all nodes, as an administrator says."""
    changed_leases: Channel = field(default_factory=Channel)
    """Partitions whose lease is not what their status says."""
    changed_jobs: Channel = field(default_factory=Channel)
    """Jobs whose status is not what their backend reports."""
    changed_nodes: Channel = field(default_factory=Channel)
    """Nodes whose readiness for containers changed."""
