"""Small random clusters for property tests, and what is true of them by definition."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import strategies as st

from cumulus.resources.device import FULL_COMPUTE, Device
from cumulus.resources.key import Key
from cumulus.resources.quantity import Share
from cumulus.scheduling import fit
from cumulus.scheduling.claim import Demand, Filter
from cumulus.scheduling.cycle import CycleResult
from cumulus.scheduling.snapshot import Gang, Hold, Member, Node, ReturnsBy, Snapshot

NOW = datetime(2030, 1, 1, tzinfo=UTC)

_names = st.sampled_from(("A100", "H100"))
_ports = st.sampled_from(((), (), (), (80,), (80, 81)))
_sizes = st.sampled_from((4, 4, 8, 2))


@st.composite
def nodes(draw: st.DrawFn, *, most: int = 3) -> tuple[Node, ...]:
    """Up to `most` nodes of one to three devices of 2 to 8 bytes."""
    found = []
    for number in range(draw(st.integers(1, most))):
        name = f"n{number}"
        devices = tuple(
            Device(index, "", draw(_names), "NVIDIA", "gpu", draw(_sizes))
            for index in range(draw(st.integers(1, 3)))
        )  # fmt: skip
        ready = draw(st.sampled_from((True, True, True, False)))
        found.append(Node(name, ready, "" if ready else "lost", False, {}, ("process",), devices))
    return tuple(found)


@st.composite
def holds(draw: st.DrawFn, there: tuple[Node, ...]) -> tuple[Hold, ...]:
    """Shares that are taken, never more than a device has; one of a node may have a host port."""
    found = []
    for node in there:
        ports = draw(_ports)
        for device in node.devices:
            memory, compute = device.memory_bytes, FULL_COMPUTE
            for number in range(draw(st.integers(0, 3))):
                took = draw(st.integers(1, 4))
                millis = draw(st.sampled_from((100, 250, 500)))
                if took > memory or millis > compute:
                    break
                memory, compute = memory - took, compute - millis
                until = NOW + timedelta(seconds=draw(st.integers(1, 12)))
                key = Key("GPUPartition", "busy", f"{node.name}-{device.index}-{number}")
                found.append(
                    Hold(
                        node.name, device.index, took, millis, until, key, key.name, "", "", ReturnsBy.LEASE_END, ports
                    )
                )
                ports = ()
    return tuple(found)


demands = st.builds(
    Demand,
    filter=st.builds(Filter, name=st.sampled_from(("", "", "H100", "A*")), node=st.sampled_from(("", "", "", "n0"))),
    memory=st.one_of(
        st.builds(Share, size=st.integers(1, 5)),
        st.builds(Share, fraction=st.sampled_from((Decimal("0.25"), Decimal("0.5"), Decimal(1)))),
    ),
    compute=st.sampled_from((None, None, 100, 600)),
    ports=_ports,
)


@st.composite
def gangs(draw: st.DrawFn, number: int = 0, *, largest: int = 3) -> Gang:
    """A gang of up to `largest` groups of one or two members, of equal or of different demands. It waits already, so
    that whoever arrives from now on is behind it."""
    name = f"g{number:02}"
    equal = draw(st.booleans())
    first = draw(demands)
    size = draw(st.sampled_from((1, 1, 2)))
    members = tuple(
        Member(Key("GPUPartition", "default", f"{name}-{group}-{index}"), "", first if equal else draw(demands), group)
        for group in range(draw(st.integers(1, largest)))
        for index in range(size)
    )
    since = NOW - timedelta(minutes=1) + timedelta(seconds=number)
    spread = draw(st.booleans())
    return Gang(name, members, draw(st.integers(1, 8)), draw(st.sampled_from((0, 0, 0, 5))), since, "", "", spread)


@st.composite
def snapshots(draw: st.DrawFn, *, queue: int = 6, most: int = 3, largest: int = 3) -> Snapshot:
    there = draw(nodes(most=most))
    taken = draw(holds(there))
    return queued(
        Snapshot(NOW, there, taken, ()), [draw(gangs(n, largest=largest)) for n in range(draw(st.integers(1, queue)))]
    )


def queued(snapshot: Snapshot, pending: Iterable[Gang]) -> Snapshot:
    """The snapshot with that queue, in its order."""
    return replace(snapshot, pending=tuple(sorted(pending, key=lambda g: (-g.priority, g.since, g.name))))


def free_at(snapshot: Snapshot, moment: datetime) -> dict[tuple[str, int], tuple[int, int]]:
    """Free memory and compute of every device of a ready node, from the holds alone."""
    free = {(n.name, d.index): (d.memory_bytes, FULL_COMPUTE) for n in snapshot.nodes if n.ready for d in n.devices}
    for hold in snapshot.holds:
        if hold.returns_at > moment and (hold.node, hold.device) in free:
            memory, compute = free[hold.node, hold.device]
            free[hold.node, hold.device] = (memory - hold.memory_bytes, compute - hold.compute)
    return free


def fits_by_brute_force(snapshot: Snapshot, gang: Gang, moment: datetime) -> bool:
    """Whether any way to put the gang's members on devices works, by trying every one."""
    free = free_at(snapshot, moment)
    booked = {(hold.node, port) for hold in snapshot.holds if hold.returns_at > moment for port in hold.ports}
    devices = {(n.name, d.index): d for n in snapshot.nodes if n.ready for d in n.devices}
    options = [
        [place for place, device in devices.items() if _serves(member.demand, place[0], device)]
        for member in gang.members
    ]
    return any(_is_allowed(gang, places, free, booked, devices) for places in itertools.product(*options))


def _serves(demand: Demand, node: str, device: Device) -> bool:
    wanted = demand.filter
    return wanted.node in ("", node) and fit.device_mismatch(wanted, device) is None


def _is_allowed(
    gang: Gang, places: tuple[tuple[str, int], ...], free: dict[tuple[str, int], tuple[int, int]],
    booked: set[tuple[str, int]], devices: dict[tuple[str, int], Device],
) -> bool:  # fmt: skip
    groups: dict[int, list[tuple[str, int]]] = {}
    left = dict(free)
    for member, place in zip(gang.members, places, strict=True):
        groups.setdefault(member.group, []).append(place)
        memory, compute = fit.share_of(member.demand, devices[place].memory_bytes)
        left[place] = (left[place][0] - memory, left[place][1] - compute)
        if min(left[place]) < 0:
            return False
    wanted: dict[int, set[tuple[str, int]]] = {}
    for member, (node, _) in zip(gang.members, places, strict=True):
        wanted.setdefault(member.group, set()).update((node, port) for port in member.demand.ports)
    ports = [*booked, *(port for group in wanted.values() for port in group)]
    return len(set(ports)) == len(ports) and all(
        len(set(group)) == len(group) and len({n for n, _ in group}) == 1 for group in groups.values()
    )


def bound(snapshot: Snapshot, plan: CycleResult) -> Snapshot:
    """The snapshot after the plan's bindings were written: they hold their shares, and left the queue."""
    gangs = {gang.name: gang for gang in snapshot.pending}
    ports = {member.partition: member.demand.ports for gang in snapshot.pending for member in gang.members}
    new = tuple(
        Hold(
            b.node, b.device, b.memory_bytes, b.compute, snapshot.now + timedelta(seconds=gangs[b.gang].seconds),
            b.partition, b.partition.name, b.gang, "", False, ports[b.partition],
        )
        for b in plan.bindings
    )  # fmt: skip
    placed = {b.gang for b in plan.bindings}
    return replace(
        snapshot, holds=snapshot.holds + new, pending=tuple(g for g in snapshot.pending if g.name not in placed)
    )


def advanced(snapshot: Snapshot, moment: datetime) -> Snapshot:
    """The snapshot at that later moment, every lease having run to its end."""
    return replace(snapshot, now=moment, holds=tuple(hold for hold in snapshot.holds if hold.returns_at > moment))


def ends(snapshot: Snapshot) -> Iterator[datetime]:
    return iter(sorted({hold.returns_at for hold in snapshot.holds}))
