"""What of an object's JSON is worth remembering. Pure; times are milliseconds since 1970."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cumulus.clock import parse_timestamp
from cumulus.resources.condition_types import NodeCondition, PartitionCondition
from cumulus.resources.device import FULL_COMPUTE, counted_share
from cumulus.resources.documents import condition, lookup, owners
from cumulus.resources.key import Document
from cumulus.resources.kinds.gpupartition import ENDED
from cumulus.resources.meta import ATTEMPT_LABEL, REPLICA_LABEL
from cumulus.resources.quantity import parse_duration, parse_share
from cumulus.resources.submitter import Submitter

WHOLE = 10_000
"""Parts of a device: what shares are counted in here."""


class DeviceFact(NamedTuple):
    """A device as a node tells of it."""

    node: str
    number: int
    """Its index on the node."""
    uuid: str
    name: str
    memory_bytes: int
    parent: str
    """What the MIG instances of one GPU have in common; "" for a whole device."""

    def height(self, memory_bytes: int) -> int:
        """The part of the device that so much memory is."""
        return max(1, min(WHOLE, memory_bytes * WHOLE // max(1, self.memory_bytes)))


class LeaseFact(NamedTuple):
    """A share that is or was held."""

    uid: str
    namespace: str
    job: str
    """The job's name; of a partition of no job partition/NAME; "" for a lease made on the node itself."""
    user: str
    queue: str
    node: str
    device: int
    device_name: str
    memory_bytes: int
    share: int
    """What is counted for it, in thousandths of the device: the larger part of memory and compute."""
    compute: int
    """Thousandths of the device."""
    enforcement: str
    attempt: int
    replica: int
    start: int
    started: int | None
    """When its program started."""
    expires: int | None
    end: int | None
    phase: str
    granted: bool
    """False: it is bound, and its node has not been asked yet."""
    parked: bool = False
    """Its program waits in main memory since `start`, and holds no share."""
    left: int | None = None
    """When it gave back the share that it had before this one, to be parked."""


class PromiseFact(NamedTuple):
    """What a gang that waits is promised, or that one which was promised something waits no more."""

    key: str
    """One for each attempt of each job."""
    namespace: str
    job: str
    user: str
    queue: str
    latest: int | None
    """It starts by then at the latest; None where nothing is promised now."""
    granted: int | None
    """When it got its share; None where it has none."""
    over: bool
    """It will get none any more."""


class PromisedSeat(NamedTuple):
    """Where and when a partition that waits gets its share."""

    fact: PromiseFact
    uid: str
    node: str
    device: int
    start: int
    seconds: float
    memory: str | int | float
    """The share as its spec has it."""

    def memory_bytes(self, device: DeviceFact) -> int:
        try:
            return parse_share(self.memory).of(device.memory_bytes)
        except ValueError:
            return device.memory_bytes


class ReservationFact(NamedTuple):
    """What is held for somebody the next time, or now."""

    start: int
    end: int
    places: tuple[tuple[str, int], ...]
    """Node and index of each device."""
    whose: str
    """Users and queues, with commas; "" for nobody's."""


class NodeFact(NamedTuple):
    name: str
    devices: tuple[DeviceFact, ...]
    faults: frozenset[int]
    """Indices of devices that have failed."""
    ready: bool
    cordoned: bool
    leases: tuple[LeaseFact, ...]
    """Those that were made on the node itself. Their start is not known: it is 0."""


def milliseconds(moment: object) -> int | None:
    """Of a timestamp. Raises ValueError where it is none."""
    return to_milliseconds(parse_timestamp(str(moment))) if moment else None


def to_milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def to_datetime(moment: int) -> datetime:
    return datetime.fromtimestamp(moment / 1000, UTC)


def owner(partition: Document) -> tuple[str, str]:
    """Name and uid of the job that the partition is of; partition/NAME and its own uid where it is of none."""
    for reference in owners(partition):
        if reference.get("controller"):
            return str(reference["name"]), str(reference["uid"])
    metadata = partition["metadata"]
    return f"partition/{metadata['name']}", str(metadata["uid"])


def lease(partition: Document) -> LeaseFact | None:
    """The share that a partition holds or held; None where it has had none. Raises what `MALFORMED` lists."""
    status = partition.get("status") or {}
    phase = str(status.get("phase") or "")
    granted = milliseconds(status.get("activatedAt"))
    if status.get("device") is None or (granted is None and phase != "Bound"):
        return None
    metadata, spec = partition["metadata"], partition.get("spec") or {}
    start = granted
    if start is None:
        bound = condition(partition, PartitionCondition.BOUND).get("lastTransitionTime")
        start = milliseconds(bound or metadata.get("creationTimestamp")) or 0
    expires = milliseconds(status.get("expiresAt"))
    if expires is None:
        expires = start + round(1000 * parse_duration(spec.get("duration") or 0))
    left = milliseconds(lookup(status, "parked.since"))
    parked = left is not None and (phase == "Parked" or start <= left)
    if parked and left is not None:
        start, left = left, None
    end = None
    if phase in ENDED:
        end = max(start, milliseconds(status.get("endedAt")) or expires)
    labels = metadata.get("labels") or {}
    return LeaseFact(
        uid=str(metadata["uid"]), namespace=str(metadata.get("namespace") or ""), job=owner(partition)[0],
        user=_user(partition), queue=str(status.get("queue") or ""), node=str(status.get("node") or ""),
        device=int(status["device"]), device_name=str(status.get("deviceName") or ""),
        memory_bytes=int(status.get("memoryBytes") or 0), share=int(status.get("share") or 0),
        compute=int(status.get("compute") or 0), enforcement=str(status.get("enforcement") or ""),
        attempt=_number(labels.get(ATTEMPT_LABEL)), replica=_number(labels.get(REPLICA_LABEL)), start=start,
        started=milliseconds(status.get("startedAt")), expires=expires, end=end, phase=phase,
        granted=granted is not None, parked=parked, left=left,
    )  # fmt: skip


def promise(partition: Document) -> PromiseFact:
    """What is to be known of the promise of a partition's gang. Raises what `MALFORMED` lists."""
    status, metadata = partition.get("status") or {}, partition["metadata"]
    name, uid = owner(partition)
    phase = str(status.get("phase") or "Pending")
    gang = lookup(partition, "spec.gang.name")
    return PromiseFact(
        key=f"{uid}/{gang or metadata['name']}", namespace=str(metadata.get("namespace") or ""), job=name,
        user=_user(partition), queue=str(status.get("queue") or ""),
        latest=milliseconds(lookup(status, "promise.startBy")) if phase == "Pending" else None,
        granted=milliseconds(status.get("activatedAt")), over=phase in ENDED,
    )  # fmt: skip


def seat(partition: Document) -> PromisedSeat | None:
    """Where a partition that waits was promised a share; None where it was not. Raises what `MALFORMED` lists."""
    found = promise(partition)
    if found.latest is None:
        return None
    spec, given = partition.get("spec") or {}, partition["status"]["promise"]
    return PromisedSeat(
        found, str(partition["metadata"]["uid"]), str(given["node"]), int(given["device"]), found.latest,
        parse_duration(spec.get("duration") or 0), spec.get("memory") or 1,
    )  # fmt: skip


def reservation(document: Document) -> ReservationFact | None:
    """None where nothing is held, nor will be. Raises what `MALFORMED` lists."""
    status, whose = document.get("status") or {}, lookup(document, "spec.for") or {}
    start, end = milliseconds(status.get("start")), milliseconds(status.get("end"))
    places = tuple((str(d["node"]), int(d["device"])) for d in status.get("devices") or ())
    if start is None or end is None or not places:
        return None
    return ReservationFact(start, end, places, ", ".join([*whose.get("users", ()), *whose.get("queues", ())]))


def node(document: Document) -> NodeFact:
    """Raises what `MALFORMED` lists."""
    name, status = str(document["metadata"]["name"]), document.get("status") or {}
    listed = status.get("devices") or ()
    return NodeFact(
        name,
        tuple(
            DeviceFact(
                name, int(d["index"]), str(d.get("id") or ""), str(d.get("name") or ""),
                int(d.get("memoryBytes") or 0), str(d.get("parent") or ""),
            )
            for d in listed
        ),
        frozenset(int(d["index"]) for d in listed if d.get("fault")),
        condition(document, NodeCondition.READY).get("status") == "True",
        bool(lookup(document, "spec.unschedulable")),
        tuple(_made_there(name, listed)),
    )  # fmt: skip


def _made_there(node: str, devices: Any) -> Iterator[LeaseFact]:
    for device in devices:
        for each in device.get("foreignLeases") or ():
            memory, compute = int(each.get("memoryBytes") or 0), int(each.get("compute") or 0)
            counted = counted_share(memory, compute, int(device.get("memoryBytes") or 0))
            yield LeaseFact(
                uid=f"{node}/{each['partitionId']}", namespace="", job="", user=str(each.get("user") or ""), queue="",
                node=node, device=int(device["index"]), device_name=str(device.get("name") or ""), memory_bytes=memory,
                share=min(FULL_COMPUTE, counted), compute=compute,
                enforcement=str(device.get("enforcement") or ""), attempt=0, replica=0, start=0, started=None,
                expires=milliseconds(each.get("expiresAt")), end=None, phase="Active", granted=True,
            )  # fmt: skip


def _user(partition: Document) -> str:
    submitter = Submitter.of(partition["metadata"].get("annotations")).name
    return submitter or str(lookup(partition, "spec.user") or "")


def _number(text: object) -> int:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 10 else 0
