"""What leases, promises and use were, as JSON: a page paints tens of thousands of spans, so they are plain dictionaries
with the API's names, and `encode` passes them on as they are.

All times are milliseconds since 1970, as JavaScript's Date has them. Shares are parts of a device, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict, get_args

SpanKind = Literal["Lease", "Promise", "Reservation", "Drain", "Down", "Parked"]
By = Literal["user", "queue", "node"]
BY: Sequence[By] = get_args(By)


class Span(TypedDict):
    """Something that has a lane, or a part of its height, for a time. Spans of leases do not overlap."""

    kind: SpanKind
    """Drain: the node takes nothing new. Down: the node does not answer, or the device failed. Parked: a program of the
    device waits in main memory; its share is 0, since it holds none."""
    start: int
    end: int
    """Of a lease that runs: when it ends at the latest. Of what has no end yet: the window's."""
    share: float
    offset: float
    """Where in the lane it begins, from 0; `offset` and `share` together are at most 1."""
    used: float | None
    """Memory in use, as a part of what is leased: more than 1 is over. None where it is not known, or not to the
    viewer."""
    busy: float | None
    """Compute in use, in the same way."""
    job: str | None
    """NAMESPACE/NAME; for a partition of no job NAMESPACE/partition/NAME. None for what is over and the viewer may not
    see, and where spans of several jobs were merged."""
    user: str | None
    phase: str
    """Of a lease as of a GPUPartition; Promised; "" for what is none."""
    enforcement: str
    """hard, guarded, none; "" where it is not known."""
    latestStart: int | None
    """The latest start that was promised for it; None where nothing was."""
    merged: int
    """How many spans it stands for. Of several, each shorter than a pixel, it has the area."""


class Lane(TypedDict):
    """One device, with its spans sorted by start."""

    node: str
    device: int
    """Its index on the node."""
    uuid: str
    name: str
    memoryBytes: int
    parent: str | None
    """Of a MIG instance: what the instances of one GPU have in common, so that they can be grouped. None for a whole
    device."""
    healthy: bool
    """Whether the node is ready and the device has not failed, now. False for one that is not there any more."""
    spans: list[Span]


class Timeline(TypedDict):
    now: int
    start: int
    end: int
    lanes: list[Lane]
    """By node and index."""


class UseSeries(TypedDict):
    """One lease of a job, and how much of it was used. Of each point, None where nobody knows."""

    node: str
    device: int
    deviceName: str
    attempt: int
    replica: int
    start: int
    end: int | None
    """None: it runs."""
    share: float
    memoryBytes: int
    first: int
    """When the first point begins."""
    step: int
    """Milliseconds from point to point."""
    used: list[float | None]
    """Memory, as a part of what is leased."""
    busy: list[float | None]
    """Compute, as a part of what is leased."""


class JobUse(TypedDict):
    now: int
    leases: list[UseSeries]
    """The newest first."""


class ReportRow(TypedDict):
    """What one user, queue or node held from `since` to `until`. The same names and types in each line of an export."""

    by: str
    name: str
    since: str
    until: str
    """RFC 3339."""
    leases: int
    heldGpuHours: float
    """A share counts as its part of the device, the larger of memory and compute."""
    usedGpuHours: float
    """The part of that in which compute was used."""
    idleGpuHours: float
    unknownGpuHours: float
    """Held on devices that do not tell what is used."""
    promises: int
    """Promised starts whose outcome is known."""
    promisesKept: int
    medianPromisedWaitSeconds: float | None
    medianActualWaitSeconds: float | None


class Report(TypedDict):
    since: str
    until: str
    whole: bool
    """False: only of the namespaces that the viewer may read."""
    rows: list[ReportRow]
    """Who held most first. What is of no user or queue has the name ""."""
    total: ReportRow


class LeaseRow(TypedDict):
    """One lease, or one time that its program waited in main memory. The same names and types in each line of an
    export. Times are RFC 3339."""

    user: str
    namespace: str
    job: str
    queue: str
    node: str
    device: int
    """Its index on the node."""
    deviceName: str
    deviceUuid: str
    attempt: int
    replica: int
    phase: str
    parked: bool
    """It waited in main memory, and held no share."""
    start: str
    end: str | None
    """None: it runs."""
    started: str | None
    """When its program started."""
    expires: str | None
    promisedStart: str | None
    """The latest start that it was promised."""
    share: float
    """The part of the device that counts, the larger of memory and compute."""
    memoryBytes: int
    enforcement: str
    memoryUsed: float | None
    """The mean, as a part of what was leased. None where nobody knows."""
    computeUsed: float | None
    heldGpuHours: float
    """This and the next three are of what lies in the time of the report."""
    usedGpuHours: float
    idleGpuHours: float
    unknownGpuHours: float


class LeaseRows(TypedDict):
    whole: bool
    """False: only of the namespaces that the viewer may read."""
    rows: list[LeaseRow]
    next: int | None
    """What to ask with for those that follow; None: there are no more."""


class HeldSeries(TypedDict):
    name: str
    now: float
    """Devices held now."""
    held: list[float]
    """Devices held, the mean of each step."""


class HeldOverTime(TypedDict):
    start: int
    step: int
    """Milliseconds."""
    whole: bool
    """False: only of the namespaces that the viewer may read."""
    series: list[HeldSeries]
    """Who held most first."""
