"""Every kind, with its names and table columns. Light: a kind's model is imported when it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cumulus.errors import UsageError
from cumulus.lib.suggest import nearest

if TYPE_CHECKING:
    from cumulus.resources.meta import Resource


@dataclass(frozen=True, slots=True)
class Column:
    """A table column: the dotted path of its value in the object's JSON, and how it is shown.

    `form`: text, age (a timestamp as the time since), until (a timestamp as the time left), bytes, or a
    name that the command line knows how to compute. `fit` and `yields`: see `cumulus.lib.table.Heading`.
    """

    title: str
    path: str
    form: str = "text"
    wide: bool = False
    fit: Literal["whole", "cut", "wrap"] = "cut"
    yields: int = 1


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object."""

    name: str
    plural: str
    short: tuple[str, ...]
    namespaced: bool
    module: str
    columns: tuple[Column, ...]
    user_made: bool = True
    """Whether a manifest may hold it."""
    selected: frozenset[str] = frozenset()
    """Fields that our own code selects by: known to be there without the model, which takes long to load."""

    def model(self) -> type[Resource]:
        """The pydantic model."""
        found: type[Resource] = getattr(importlib.import_module(self.module), self.name)
        return found

    @property
    def qualified(self) -> str:
        """As `apply` names it: gpujob.cumulus.dev."""
        return f"{self.name.lower()}.cumulus.dev"

    @property
    def words(self) -> tuple[str, ...]:
        """Every word by which a person may call this kind."""
        return (self.name.lower(), self.plural, *self.short)


KINDS: tuple[Kind, ...] = (
    Kind(
        "GPUJob", "gpujobs", ("jobs", "job", "gj"), True, "cumulus.resources.job",
        (
            Column("PHASE", "status.phase", fit="whole", yields=0),
            Column("NODE", "", form="job-node", yields=2),
            Column("GPU", "", form="job-gpu", yields=4),
            Column("ATTEMPTS", "", form="job-attempts", yields=5),
            Column("LEASE ENDS", "", form="job-lease", wide=True, fit="whole", yields=1),
            Column("IMAGE", "spec.image", wide=True, yields=6),
            Column("REASON", "", form="job-reason", wide=True, fit="whole", yields=0),
            Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=3),
        ),
    ),
    Kind(
        "GPUPartition", "gpupartitions", ("partitions", "partition", "parts", "part", "gp"), True,
        "cumulus.resources.partition",
        (
            Column("PHASE", "status.phase", fit="whole", yields=0),
            Column("NODE", "status.node", yields=2),
            Column("DEVICE", "status.device", yields=4),
            Column("MEMORY", "status.memoryBytes", form="bytes", yields=1),
            Column("ENFORCEMENT", "status.enforcement", yields=6),
            Column("ENDS IN", "status.expiresAt", form="until", fit="whole", yields=0),
            Column("COMPUTE", "status.compute", form="millis", wide=True, yields=5),
            Column("USER", "spec.user", wide=True, yields=3),
            Column("PARTITION-ID", "status.partitionId", wide=True, fit="whole", yields=7),
            Column("TOKEN", "status.fencingToken", wide=True, yields=8),
            Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=5),
        ),
        selected=frozenset({"status.node"}),
    ),
    Kind(
        "GPUNode", "gpunodes", ("nodes", "node", "no"), False, "cumulus.resources.node",
        (
            Column("STATUS", "", form="node-status", fit="whole", yields=0),
            Column("RUNTIMES", "status.runtimes", yields=4),
            Column("DEVICES", "", form="node-devices", yields=2),
            Column("FREE", "", form="node-free", yields=1),
            Column("HEARTBEAT", "status.heartbeatTime", form="age", wide=True, fit="whole", yields=3),
            Column("CHRONOS", "status.chronosVersion", wide=True, yields=6),
            Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=5),
        ),
    ),
    Kind(
        "Event", "events", ("ev",), True, "cumulus.resources.event",
        (
            Column("LAST SEEN", "lastTimestamp", form="age", fit="whole", yields=1),
            Column("TYPE", "type", fit="whole", yields=3),
            Column("REASON", "reason", fit="whole", yields=0),
            Column("OBJECT", "", form="event-object", fit="wrap", yields=2),
            Column("COUNT", "count", wide=True, yields=4),
            Column("SOURCE", "source.component", wide=True, yields=5),
            Column("MESSAGE", "message", fit="wrap", yields=0),
        ),
        user_made=False,
        selected=frozenset({"involvedObject.kind", "involvedObject.name"}),
    ),
    Kind(
        "Lease", "leases", (), False, "cumulus.resources.lease",
        (
            Column("HOLDER", "spec.holderIdentity"),
            Column("TOKEN", "spec.token"),
            Column("RENEWED", "spec.renewTime", form="age"),
        ),
        user_made=False,
    ),
)  # fmt: skip

BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
_BY_WORD: dict[str, Kind] = {word: kind for kind in KINDS for word in kind.words}


_NO_KINDS = {
    "secret": "secrets are kept apart from objects: see `cumulus secret --help`",
    "pod": "what runs is a job: see `cumulus get jobs`",
    "deployment": "what runs is a job: see `cumulus get jobs`",
    "namespace": "a namespace need not be made: give one with -n NAME",
    "ns": "a namespace need not be made: give one with -n NAME",
    "queue": "jobs and partitions wait by themselves: see `cumulus get jobs,partitions` and `cumulus why JOB`",
    "device": "devices are shown with their node: see `cumulus describe node NAME`",
    "gpu": "devices are shown with their node: see `cumulus describe node NAME`",
    "log": "see `cumulus logs JOB`",
}
"""Words that name something else than a kind here, each with where it is to be found."""


def find_kind(word: str) -> Kind:
    """The kind a person means by GPUJob, gpujobs, jobs, gj or gpujob.cumulus.dev. Raises UsageError."""
    plain = word.lower().removesuffix(".cumulus.dev")
    found = _BY_WORD.get(plain)
    if found is None:
        hint = _NO_KINDS.get(plain) or _NO_KINDS.get(plain.removesuffix("s"))
        if hint is None:
            close = nearest(plain, _BY_WORD)
            known = ", ".join(kind.plural for kind in KINDS)
            hint = f"did you mean {close[0]}?" if close else f"the kinds are {known}"
        raise UsageError(f"there is no kind {word!r}", hint=hint)
    return found
