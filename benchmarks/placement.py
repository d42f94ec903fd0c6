"""Placement alone: decisions a second of processor time (a decision binds or refuses one gang), and their growth."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache

from benchmarks.harness import Result, reported
from cumulus.resources.device import Device
from cumulus.resources.enforcement import Enforcement
from cumulus.resources.key import Key
from cumulus.resources.meta import ObjectMeta
from cumulus.resources.quantity import Share
from cumulus.resources.queue import Queue, QueueSpec
from cumulus.scheduling.claim import Demand, Filter
from cumulus.scheduling.cycle import place
from cumulus.scheduling.explain import explain
from cumulus.scheduling.fair import with_queues
from cumulus.scheduling.policy import DEFAULT
from cumulus.scheduling.queues import Book, QueueAccounts, Tree
from cumulus.scheduling.snapshot import Gang, Hold, Member, Node, ReturnsBy, Snapshot

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GI = 2**30
DEVICES = 8


NODES, LEASES, PENDING = 1000, 50_000, 10_000


def run() -> Iterator[Result]:
    """Against a cluster and queue a quarter of the size: with the time for a decision unchanged the ratio is 1."""
    for name, queue in QUEUES.items():
        seconds, bound, _ = _measure(NODES, LEASES, queue(PENDING))
        smaller, _, _ = _measure(NODES // 4, LEASES // 4, queue(PENDING // 4))
        what = (
            f"placement, {NODES:,} nodes of {DEVICES}, {LEASES:,} leases, {PENDING:,} waiting: {name}; {bound:,} bound"
        )
        peer = "a quarter of the size"
        yield reported(what, PENDING / seconds, PENDING / 4 / smaller, unit="decisions/s", peer_name=peer)
    yield _queued()


def _queued() -> Result:
    """The same cycle with queues, users and their use, by the one without, run in turns."""
    snapshot = cluster(NODES, LEASES, QUEUES["small, equal"](PENDING))
    holds = (
        replace(hold, queue=f"q{n % 5}", user=f"u{n % 50}", since=NOW - timedelta(seconds=n % 9999), share=125,
                device_name=_MODELS[0][0], returns_by=ReturnsBy.LEASE_END)
        for n, hold in enumerate(snapshot.holds)
    )  # fmt: skip
    pending = (replace(gang, queue=f"q{n % 5}", user=f"u{n % 50}") for n, gang in enumerate(snapshot.pending))
    snapshot = replace(snapshot, holds=tuple(holds), pending=tuple(pending))
    made = [Queue(metadata=ObjectMeta(name=f"q{n}"), spec=QueueSpec()) for n in range(5)]
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(7):
        for queued in (True, False) if number % 2 else (False, True):
            policies = with_queues(DEFAULT, Book(Tree(made if queued else ()), QueueAccounts(())))
            begun = time.process_time()
            place(snapshot, policies)
            times[queued].append(time.process_time() - begun)
    what = f"placement with 5 queues of 50 users, {LEASES:,} leases, {PENDING:,} waiting"
    rates = {queued: PENDING / min(found) for queued, found in times.items()}
    return reported(what, rates[True], rates[False], unit="decisions/s", peer_name="without queues")


def _measure(nodes: int, leases: int, pending: list[Gang]) -> tuple[float, int, float]:
    snapshot = cluster(nodes, leases, pending)
    begun = time.process_time()
    plan = place(snapshot)
    placed = time.process_time()
    explain(snapshot, pending[-1].members[0].partition)
    return placed - begun, len(plan.bindings), time.process_time() - placed


def cluster(nodes: int, leases: int, pending: list[Gang]) -> Snapshot:
    """Nodes of two device types and leases that end over a day; about a quarter of each device stays free."""
    dice = random.Random(1)
    made = tuple(
        Node(
            name=f"node-{number:04}", ready=True, not_ready="", cordoned=False, labels={"zone": f"z{number % 4}"},
            runtimes=("process", "container"),
            devices=tuple(
                Device(index, "", *_MODELS[number % 2], enforcement=Enforcement.HARD) for index in range(DEVICES)
            ),
        )
        for number in range(nodes)
    )  # fmt: skip
    per_device = leases // (nodes * DEVICES)
    holds = tuple(
        Hold(
            node.name, device.index, device.memory_bytes * 3 // 4 // per_device, 700 // per_device,
            NOW + timedelta(seconds=dice.randrange(60, 86_400)),
            Key("GPUPartition", "busy", f"{node.name}-{device.index}-{n}"),
            "", "busy/job", "alice", ReturnsBy.NOT_GRANTED,
        )
        for node in made
        for device in node.devices
        for n in range(per_device)
    )  # fmt: skip
    return Snapshot(NOW, made, holds, tuple(pending))


_MODELS = (("NVIDIA H100", "NVIDIA Corporation", "gpu", 80 * GI), ("NVIDIA A100", "NVIDIA Corporation", "gpu", 40 * GI))


def gang(
    number: int, memory: Share, seconds: float = 3600, groups: int = 1, count: int = 1, wanted: Filter | None = None
) -> Gang:
    demand = _demand(wanted or Filter(), memory)
    members = tuple(
        Member(Key("GPUPartition", "default", f"p{number:06}-{group}-{index}"), "", demand, group)
        for group in range(groups)
        for index in range(count)
    )
    return Gang(f"default/g{number:06}", members, seconds, 0, NOW, f"default/g{number:06}", "bob")


@cache
def _demand(wanted: Filter, memory: Share) -> Demand:
    """One object for all equal demands, as in a real snapshot (`claim`)."""
    return Demand(wanted, memory, None)


def _different(pending: int) -> list[Gang]:
    dice = random.Random(2)
    return [gang(n, Share(size=dice.randrange(GI, 8 * GI)), dice.randrange(60, 7200)) for n in range(pending)]


def _mixed(pending: int) -> list[Gang]:
    dice = random.Random(3)
    queue = []
    for n in range(pending):
        size = Share(size=dice.choice((1, 2, 4, 8, 16, 24, 40, 80)) * GI)
        wanted = Filter(name=dice.choice(("", "*H100*", "*A100*")), node_labels=dice.choice(((), (("zone", "z1"),))))
        queue.append(
            gang(n, size, dice.choice((600, 3600, 36_000)), dice.choice((1, 1, 2, 8)), dice.choice((1, 1, 4)), wanted)
        )
    return queue


QUEUES: dict[str, Callable[[int], list[Gang]]] = {
    "small, equal": lambda pending: [gang(n, Share(size=2 * GI)) for n in range(pending)],
    "small, all different": _different,
    "whole devices, equal (none fits)": lambda pending: [gang(n, Share(fraction=Decimal(1))) for n in range(pending)],
    "whole devices, lengths differ": lambda pending: [
        gang(n, Share(fraction=Decimal(1)), 600 + n) for n in range(pending)
    ],
    "gangs of 4 replicas on 2 devices": lambda pending: [
        gang(n, Share(size=4 * GI), 3600 + n, 4, 2) for n in range(pending)
    ],
    "mixed sizes, gangs and selectors": _mixed,
}
