"""The registry's entry for GPUNode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from cumulus.clock import parse_timestamp, to_the_second
from cumulus.lib.table import Heading
from cumulus.resources.columns import NOTHING, age, percent, text, until
from cumulus.resources.condition_types import NodeCondition
from cumulus.resources.documents import condition, lookup
from cumulus.resources.finalizers import CLUSTER_FINALIZER
from cumulus.resources.key import Document
from cumulus.resources.kind import Column, Kind, Related, by_condition, detail
from cumulus.resources.kinds.gpupartition import ENDED
from cumulus.resources.quantity import format_bytes
from cumulus.resources.query import Query
from cumulus.resources.sections import Fields, Rows, Section, Surroundings, Value, moment

SILENT_SECONDS = 60.0
"""A heartbeat is written every 20 s, and after 40 s without one the controllers take Ready back: if they run."""


def node_status(node: Document, now: datetime) -> str:
    """How it is, and whether it is cordoned: `Ready,SchedulingDisabled` as kubectl says it. `Ready,Drain(in 3h)` and
    `Ready,Drain(2h more)` where it is held for nobody."""
    drain = drain_of(node, now)
    cordoned = ",SchedulingDisabled" if lookup(node, "spec.unschedulable") else ""
    return f"{node_state(node, now)}{cordoned}{f',Drain({_left(drain, now)})' if drain else ''}"


def drain_of(node: Document, now: datetime) -> Document:
    """The time that is not over in which the node is held for nobody; empty where there is none."""
    found = lookup(node, "status.drain") or {}
    return dict(found) if found and parse_timestamp(found["end"]) > now else {}


def _left(drain: Document, now: datetime) -> str:
    begins = parse_timestamp(drain["start"]) > now
    return f"in {until(drain['start'], now)}" if begins else f"{until(drain['end'], now)} more"


def _drain(node: Document, now: datetime) -> str:
    """From when to when, and by which Reservation."""
    found = drain_of(node, now)
    if not found:
        return ""
    start, end = to_the_second(found["start"]), to_the_second(found["end"])
    return f"from {start} to {end} ({_left(found, now)}), by the Reservation {found['reservation']}"


def node_state(node: Document, now: datetime) -> str:
    """Ready, NotReady or Unknown; `Unknown (silent for 3h)` where nobody has heard of it for so long, whatever its
    condition says."""
    if is_silent(node, now):
        return f"Unknown (silent for {age(lookup(node, 'status.heartbeatTime'), now)})"
    return {"True": "Ready", "False": "NotReady"}.get(condition(node, NodeCondition.READY).get("status", ""), "Unknown")


def is_silent(node: Document, now: datetime) -> bool:
    """Whether nobody has heard of the node for longer than a daemon that runs would leave it called Ready."""
    heartbeat = lookup(node, "status.heartbeatTime")
    return bool(heartbeat) and (now - parse_timestamp(heartbeat)).total_seconds() >= SILENT_SECONDS


def node_devices(node: Document) -> str:
    """`2x NVIDIA H100 80Gi, 1x cpu 7.6Gi`: devices of one name and size are counted together."""
    counted: dict[tuple[str, int], int] = {}
    for device in devices(node):
        key = (device["name"], device["memoryBytes"])
        counted[key] = counted.get(key, 0) + 1
    return ", ".join(f"{count}x {name} {format_bytes(size)}" for (name, size), count in counted.items())


def node_free(node: Document) -> str:
    """What is free of each device, memory and compute: `40Gi 50%, 80Gi 100%`."""
    return ", ".join(f"{format_bytes(d['freeMemoryBytes'])} {percent(d['freeCompute'])}" for d in devices(node))


def leases(number: int) -> str:
    """`1 lease`, `2 leases`."""
    return f"{number} lease{'' if number == 1 else 's'}"


def devices(node: Document) -> list[Document]:
    return list(lookup(node, "status.devices") or ())


def node_condition(node: Document, type: str, now: datetime) -> str:
    """As it says; but of a node that was Ready when the last daemon ended, nobody knows how it is."""
    return "Unknown" if type == NodeCondition.READY and is_silent(node, now) else by_condition(node, type, now)


def node_summary(node: Document, now: datetime) -> str:
    """`NotReady (Unreachable: gpu-1 does not answer)`."""
    state = node_state(node, now)
    return state if state.startswith("Unknown (") else state + detail(condition(node, NodeCondition.READY))


def partitions(name: str) -> Query:
    """The partitions that have, had, or are about to have a lease on the node."""
    return Query("GPUPartition", fields=f"status.node={name}")


def losses(node: Document, placed: Sequence[Document]) -> list[str]:
    """`was added by hand`, `holds 2 leases, …`; nothing where discovery brings all of it back."""
    said = []
    if CLUSTER_FINALIZER in (node["metadata"].get("finalizers") or ()):
        said.append("is a machine of the Swarm, and leaves it")
    elif lookup(node, "spec.ssh"):
        said.append("was added by hand")
    if lookup(node, "spec.unschedulable"):
        said.append("is cordoned")
    if held := sum(lookup(partition, "status.phase") not in ENDED for partition in placed):
        said.append(f"holds {leases(held)}, which go on there while their jobs start again elsewhere")
    if foreign := sum(len(device.get("foreignLeases") or ()) for device in devices(node)):
        said.append(f"holds {leases(foreign)} made on the node itself")
    return said


def sections(node: Document, around: Surroundings) -> Iterator[Section]:
    status, now = node.get("status") or {}, around.now
    yield Fields(
        [
            ("Hostname", status.get("hostname", "")),
            ("Schedulable", "no, it is cordoned" if lookup(node, "spec.unschedulable") else "yes"),
            ("Runtimes", text(status.get("runtimes") or [])),
            ("Without image", _host_jobs(status.get("hostJobs"))),
            ("Checkpoints to", text(status.get("checkpointPlaces") or [])),
            ("Heartbeat", moment(status.get("heartbeatTime"), now)),
            ("Boot ID", status.get("bootId", "")),
            ("Chronos", status.get("chronosVersion", "")),
            ("Drain", _drain(node, now)),
        ]
    )
    headings = (
        "DEVICE", Heading("NAME", "wrap"), Heading("VENDOR", yields=2), "TYPE", "MEMORY", "FREE", "FREE COMPUTE",
        "ENFORCEMENT", Heading("DRIVER", yields=1),
    )  # fmt: skip
    yield Rows("Devices", headings, [_device(d) for d in devices(node)])
    if parking := status.get("parking"):
        used, limit = (format_bytes(parking.get(name, 0)) for name in ("usedBytes", "limitBytes"))
        yield Fields([("Main memory", f"{used} of {limit} taken by parked programs")], "Parking")
        proofs = [
            [p["framework"], p["device"], p["driver"], "yes" if p["holds"] else "no", p.get("message") or NOTHING]
            for p in parking.get("proofs") or ()
        ]
        if proofs:
            yield Rows("Parking of", ("FRAMEWORK", "DEVICE", "DRIVER", "HOLDS", "WHY"), proofs)
    figures = [_figures(d) for d in devices(node) if d.get("figures") or d.get("fault")]
    if figures:
        yield Rows("Figures", ("DEVICE", "USED", "BUSY", "POWER", "TEMPERATURE", "THROTTLED", "ECC", "FAULT"), figures)
    unleased = [
        [str(d["index"]), str(process["pid"]), process.get("program") or NOTHING, process.get("user") or NOTHING,
         format_bytes(process["memoryBytes"])]
        for d in devices(node)
        for process in d.get("unleasedProcesses") or ()
    ]  # fmt: skip
    if unleased:
        yield Rows("Processes without a lease", ("DEVICE", "PID", "PROGRAM", "USER", "MEMORY"), unleased)
    links = [
        [str(d["index"]), link["over"], ", ".join(map(str, link["devices"]))]
        for d in devices(node)
        for link in d.get("links") or ()
    ]
    if links:
        yield Rows("Links", ("DEVICE", "OVER", "TO"), links)
    foreign = [
        [str(d["index"]), lease["partitionId"], lease.get("user") or NOTHING, format_bytes(lease["memoryBytes"]),
         percent(lease["compute"]), until(lease["expiresAt"], now)]
        for d in devices(node)
        for lease in d.get("foreignLeases") or ()
    ]  # fmt: skip
    if foreign:
        columns = ("DEVICE", "LEASE", "USER", "MEMORY", "COMPUTE", "ENDS IN")
        yield Rows("Leases made on the node itself", columns, foreign)


def _figures(device: Document) -> list[str]:
    found = device.get("figures") or {}
    ecc = found.get("eccUncorrected")
    return [
        str(device.get("index", "?")),
        NOTHING if found.get("usedMemoryBytes") is None else format_bytes(found["usedMemoryBytes"]),
        NOTHING if found.get("busy") is None else percent(found["busy"]),
        NOTHING if found.get("powerWatts") is None else f"{found['powerWatts']:.0f} W",
        NOTHING if found.get("temperatureCelsius") is None else f"{found['temperatureCelsius']} °C",
        ", ".join(found.get("throttling") or ()) or NOTHING,
        NOTHING if ecc is None else f"{ecc} uncorrected",
        device.get("fault") or NOTHING,
    ]


def _host_jobs(found: Document | None) -> Value:
    """Whether jobs without an image run there, beside the daemon's own machine, and of whom not."""
    if not found:
        return ""
    if not found.get("offered"):
        return f"no: {found.get('message') or 'it was not asked'}"
    return "yes" + "".join(
        f"; not of {u['name']}: {u['problem']}" for u in found.get("users") or () if u.get("problem")
    )


def _device(device: Document) -> list[str]:
    return [
        str(device.get("index", "?")),
        device.get("name", ""),
        device.get("vendor") or NOTHING,
        device.get("type", ""),
        format_bytes(device.get("memoryBytes", 0)),
        format_bytes(device.get("freeMemoryBytes", 0)),
        percent(device.get("freeCompute", 0)),
        device.get("enforcement", ""),
        device.get("driver") or NOTHING,
    ]


KIND = Kind(
    "GPUNode",
    "gpunodes",
    ("nodes", "node", "no"),
    False,
    "cumulus.resources.node",
    (
        Column("STATUS", cell=lambda node, view: node_status(node, view.now), fit="whole", yields=0),
        Column("RUNTIMES", "status.runtimes", yields=4),
        Column("DEVICES", cell=lambda node, _: node_devices(node), yields=2),
        Column("FREE", cell=lambda node, _: node_free(node), yields=1),
        Column("HEARTBEAT", "status.heartbeatTime", form="age", wide=True, fit="whole", yields=3),
        Column("CHRONOS", "status.chronosVersion", wide=True, yields=6),
        Column("AGE", "metadata.creationTimestamp", form="age", fit="whole", yields=5),
    ),
    readers=None,
    guarded=True,
    noun="node",
    remembered_as="node",
    related=Related(
        "Partitions",
        lambda node: partitions(node["metadata"]["name"]),
        lambda partition: lookup(partition, "status.phase") in ("Active", "Bound", "Parked", "Unparking"),
    ),
    sections=sections,
    losses=losses,
    conditions=(NodeCondition.READY, NodeCondition.CONTAINERS_READY, NodeCondition.MPS_READY),
    condition_status=node_condition,
    reported_in=lambda node: lookup(node, "status.term") or 0,
    state=node_summary,
)
