"""What is leased and used now. Everybody may know who has a share, for which job and until when (`redaction`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial

from cumulus.answers.usage import DeviceUse, ShareUse, UsageNow
from cumulus.clock import Clock, timestamp
from cumulus.resources.condition_types import PartitionCondition
from cumulus.resources.documents import condition, lookup, owners
from cumulus.resources.key import Document
from cumulus.resources.kinds import gpunode, gpupartition
from cumulus.resources.query import Query
from cumulus.resources.submitter import Submitter
from cumulus.service.identity import Identity
from cumulus.service.objects import Objects
from cumulus.service.redaction import Redaction
from cumulus.store.base import Store

_HELD = ("Bound", "Active", "Unparking")


class Usage:
    def __init__(self, store: Store, objects: Objects, redaction: Redaction, clock: Clock) -> None:
        self._store = store
        self._redaction = redaction
        self._objects = objects
        self._clock = clock

    def now(self, identity: Identity) -> UsageNow:
        """Of all nodes, and of all that hold a share. What is damaged is left out."""
        nodes = self._objects.list(identity, Query(gpunode.KIND.name)).items
        found = self._store.list(Query(gpupartition.KIND.name)).items
        held = [each for each in found if lookup(each, "status.phase") in _HELD]
        now = self._clock.now()
        sees = partial(self._redaction.sees, identity)
        return UsageNow(timestamp(now), tuple(_devices(nodes, held, now)), tuple(_shares(held, sees)))


def _devices(nodes: Sequence[Document], held: Sequence[Document], now: datetime) -> Iterator[DeviceUse]:
    by_device: Mapping[tuple[str, int], list[Document]] = defaultdict(list)
    for partition in held:
        by_device[lookup(partition, "status.node"), lookup(partition, "status.device")].append(partition)
    for node in nodes:
        name, state = node["metadata"]["name"], gpunode.KIND.summary(node, now)
        for device in lookup(node, "status.devices") or ():
            figures = device.get("figures") or {}
            mine = by_device.get((name, device["index"]), ())
            leases = [*(p["status"] for p in mine), *(device.get("foreignLeases") or ())]
            yield DeviceUse(
                node=name, index=device["index"], name=device.get("name", ""),
                state=f"Failed: {device['fault']}" if device.get("fault") else state,
                memory_bytes=device.get("memoryBytes", 0),
                leased_bytes=sum(lease.get("memoryBytes", 0) for lease in leases),
                leased_compute=sum(lease.get("compute", 0) for lease in leases),
                used_bytes=figures.get("usedMemoryBytes"), over_bytes=device.get("overusedMemoryBytes", 0),
                unleased_bytes=sum(p.get("memoryBytes", 0) for p in device.get("unleasedProcesses") or ()),
                busy=figures.get("busy"), power_watts=figures.get("powerWatts"),
                temperature_celsius=figures.get("temperatureCelsius"),
            )  # fmt: skip


def _shares(held: Sequence[Document], sees: Callable[[str], bool]) -> Iterator[ShareUse]:
    by_job: Mapping[tuple[str, str], list[Document]] = defaultdict(list)
    for partition in held:
        owner = next((o["name"] for o in owners(partition) if o.get("controller")), None)
        name = owner or f"partition/{partition['metadata']['name']}"
        by_job[partition["metadata"].get("namespace") or "", name].append(partition)
    for (namespace, name), mine in sorted(by_job.items()):
        first = mine[0]
        statuses = [each["status"] for each in mine]
        yield ShareUse(
            namespace=namespace, name=name,
            user=Submitter.of(first["metadata"].get("annotations")).name or lookup(first, "spec.user") or "",
            nodes=tuple(sorted({status.get("node", "") for status in statuses})), devices=len(mine),
            memory_bytes=sum(status.get("memoryBytes", 0) for status in statuses),
            compute=sum(status.get("compute", 0) for status in statuses),
            until=min((status["expiresAt"] for status in statuses if status.get("expiresAt")), default=""),
            over=sees(namespace)
            and any(condition(each, PartitionCondition.OVERUSED).get("status") == "True" for each in mine),
        )  # fmt: skip
