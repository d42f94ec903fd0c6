"""How fast placement decides, and how its time grows with the cluster.

    python benchmarks/placement.py [--nodes 1000] [--leases 50000] [--pending 10000]

Prints decisions per second of processor time (a decision binds or refuses one gang) and the ratio by which the
time for a decision grew from a cluster and queue a quarter of the size. The inputs are the same at each run.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from cumulus.resources.enforcement import Enforcement
from cumulus.resources.key import Key
from cumulus.resources.quantity import Share
from cumulus.scheduling.explain import explain
from cumulus.scheduling.place import place
from cumulus.scheduling.snapshot import Demand, Device, Filter, Gang, Hold, Node, Request, Snapshot

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GI = 2**30
DEVICES = 8


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--nodes", type=int, default=1000)
    arguments.add_argument("--leases", type=int, default=50_000)
    arguments.add_argument("--pending", type=int, default=10_000)
    arguments.add_argument("--queue", choices=QUEUES, help="only this one")
    sizes = arguments.parse_args()
    print(f"{sizes.nodes} nodes of {DEVICES} devices, {sizes.leases} leases, {sizes.pending} pending")
    print(f"{'queue':34} {'pass':>9} {'bound':>7} {'decisions/s':>12} {'growth':>7} {'explain last':>13}")
    for name, queue in QUEUES.items():
        if sizes.queue not in (None, name):
            continue
        seconds, bound, explaining = _measure(sizes.nodes, sizes.leases, queue(sizes.pending))
        smaller, _, _ = _measure(sizes.nodes // 4, sizes.leases // 4, queue(sizes.pending // 4))
        rate = sizes.pending / seconds
        growth = seconds / sizes.pending / (smaller / (sizes.pending // 4))
        print(f"{name:34} {seconds:8.2f}s {bound:7} {rate:12.0f} {growth:6.2f}x {explaining:12.2f}s")


def _measure(nodes: int, leases: int, pending: list[Gang]) -> tuple[float, int, float]:
    snapshot = cluster(nodes, leases, pending)
    begun = time.process_time()
    plan = place(snapshot)
    placed = time.process_time()
    explain(snapshot, pending[-1].requests[0].partition)
    return placed - begun, len(plan.bindings), time.process_time() - placed


def cluster(nodes: int, leases: int, pending: list[Gang]) -> Snapshot:
    """Nodes of two device types and leases that end over a day; about a quarter of each device stays free."""
    dice = random.Random(1)
    made = tuple(
        Node(
            name=f"node-{number:04}", ready=True, not_ready="", cordoned=False, labels={"zone": f"z{number % 4}"},
            runtimes=("process", "container"),
            devices=tuple(
                Device(f"node-{number:04}", index, *_MODELS[number % 2], Enforcement.HARD) for index in range(DEVICES)
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
            "", "busy/job", "alice", False,
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
    demand = Demand(wanted or Filter(), memory, None)
    requests = tuple(
        Request(Key("GPUPartition", "default", f"p{number:06}-{group}-{index}"), "", demand, group)
        for group in range(groups)
        for index in range(count)
    )
    return Gang(f"default/g{number:06}", requests, seconds, 0, NOW, f"default/g{number:06}", "bob")


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

if __name__ == "__main__":
    main()
