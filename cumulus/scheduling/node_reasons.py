"""The reason why a gang can't be on a node now, one for each node, with the figures."""

from __future__ import annotations

from dataclasses import dataclass

from cumulus.resources.quantity import format_bytes
from cumulus.resources.reasons import SchedulingReason
from cumulus.scheduling import fit
from cumulus.scheduling.assign import uniform
from cumulus.scheduling.availability import Availability, Offer, Slot
from cumulus.scheduling.claim import Demand
from cumulus.scheduling.fit import Reason
from cumulus.scheduling.snapshot import Gang, Node, Snapshot
from cumulus.scheduling.timeline import microseconds

# Of several devices' reasons a node shows the one that came closest to fitting, of the largest device.
_NEARNESS: tuple[str, ...] = (
    SchedulingReason.QUEUE_LIMIT,
    SchedulingReason.TOO_LARGE,
    SchedulingReason.ENFORCEMENT_TOO_WEAK,
    SchedulingReason.NO_MATCHING_DEVICE,
)


@dataclass(frozen=True, slots=True)
class NodeReason:
    """`node` is empty where the reason is no node's."""

    node: str
    reason: Reason


class Explainer:
    """`node_reasons` for many gangs of one cycle. Gangs that ask for the same have the same reasons for as long as
    nothing was taken or reserved between them, and most of a long queue ask for the same."""

    def __init__(self, snapshot: Snapshot, availability: Availability) -> None:
        self._snapshot = snapshot
        self._availability = availability
        self._known: dict[object, tuple[NodeReason, ...]] = {}
        self._at = (0, 0)

    def node_reasons(self, gang: Gang) -> tuple[NodeReason, ...]:
        """As the function `node_reasons` says."""
        at = (len(self._availability.changes), self._availability.reservations)
        if at != self._at:
            self._at = at
            self._known.clear()
        asked = (tuple((member.demand, member.group) for member in gang.members), gang.seconds)
        found = self._known.get(asked)
        if found is None:
            found = self._known[asked] = node_reasons(self._snapshot, self._availability, gang)
        return found


def node_reasons(snapshot: Snapshot, availability: Availability, gang: Gang) -> tuple[NodeReason, ...]:
    """Why a gang that was just refused is not on any of the nodes, as the cycle left them.

    What will never be comes before what may pass: a node that is too small says so even while it is not ready.
    """
    parts = _parts(gang)
    pinned = {demand.filter.node for demand, _, _ in parts}
    found = []
    for node in snapshot.nodes:
        if "" not in pinned and node.name not in pinned:
            continue
        reasons = [
            _never(node, demand, size) or fit.unavailable(node) or _now(availability, node, gang, demand, size, groups)
            for demand, size, groups in parts
            if demand.filter.node in ("", node.name)
        ]
        found.append(NodeReason(node.name, reasons[0] if len(reasons) == 1 else _worst(reasons)))
    known = {node.name for node in snapshot.nodes}
    missing = [
        NodeReason(name, Reason(SchedulingReason.NO_SUCH_NODE, "there is no such node"))
        for name in sorted(pinned - known - {""})
    ]
    return (*found, *missing)


def _parts(gang: Gang) -> list[tuple[Demand, int, int]]:
    """Each demand of the gang, with the most distinct devices a group asks of a node by it, and how many groups do."""
    counts: dict[Demand, dict[int, int]] = {}
    for member in gang.members:
        groups = counts.setdefault(member.demand, {})
        groups[member.group] = groups.get(member.group, 0) + 1
    return [(demand, max(groups.values()), len(groups)) for demand, groups in counts.items()]


def _worst(reasons: list[Reason]) -> Reason:
    return next((reason for reason in reasons if reason.code != SchedulingReason.ROOM_FOR_PART), reasons[0])


def _never(node: Node, demand: Demand, size: int) -> Reason | None:
    reason = fit.node_mismatch(demand.filter, node)
    if reason is not None:
        return reason
    if not node.devices:
        return Reason(SchedulingReason.NO_MATCHING_DEVICE, "the node has no devices")
    misfits = [
        misfit
        for device in sorted(node.devices, key=lambda device: -device.memory_bytes)
        if (misfit := fit.device_mismatch(demand.filter, device) or fit.too_large(demand, device)) is not None
    ]
    fitting = len(node.devices) - len(misfits)
    if fitting == 0:
        return min(misfits, key=lambda misfit: _NEARNESS.index(misfit.code))
    if fitting < size:
        return Reason(
            SchedulingReason.TOO_LARGE, f"needs {_devices(size)} at once, {_devices(fitting)} of the node can do it"
        )
    return None


def _now(availability: Availability, node: Node, gang: Gang, demand: Demand, size: int, groups: int) -> Reason:
    slots = [
        slot
        for slot in availability.on_node(node.name)
        if fit.device_mismatch(demand.filter, slot.device) is None and fit.too_large(demand, slot.device) is None
    ]
    if len(slots) < size and node.faults:
        said = "; ".join(f"device {index}: {why}" for index, why in node.faults)
        return Reason(SchedulingReason.DEVICE_FAILED, f"what could hold it has failed: {said}")
    length = microseconds(gang.seconds)
    booked = availability.ports_booked(node.name, demand.ports, 0, length)
    if booked is not None:
        ports = words_for_ports(tuple(sorted({*demand.ports} & {*booked.ports})))
        if booked.reserved:
            return Reason(SchedulingReason.RESERVED, f"{ports} is kept for {booked.holder}, ahead in the queue")
        return Reason(SchedulingReason.HOST_PORT_TAKEN, f"{ports} of the node is taken by {booked.holder}")
    most = 1 if demand.ports else groups
    shares = [(slot, *fit.share_of(demand, slot.device.memory_bytes)) for slot in slots]
    offers = [
        Offer(slot, memory, compute, times)
        for slot, memory, compute in shares
        if (times := _times(slot.free(0, length), memory, compute)) > 0
    ]
    if len(offers) >= size:
        room = next(count for count in range(most, 0, -1) if uniform(offers, count, size) is not None)
        part = f"{room} of the gang's {groups} replicas" if room < groups else "a part of the gang"
        each = f", since each needs {words_for_ports(demand.ports)} of a node" if demand.ports and groups > 1 else ""
        return Reason(SchedulingReason.ROOM_FOR_PART, f"has room for {part}, not for all of it{each}")
    free_now = [slot for slot, memory, compute in shares if _times((slot.memory, slot.compute), memory, compute) > 0]
    if len(free_now) >= size:
        names = list(dict.fromkeys(name for slot in free_now for name in slot.reserved))
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return Reason(
            SchedulingReason.RESERVED, f"what is free is kept for {', '.join(names[:3])}{more}, ahead in the queue"
        )
    return _insufficient(shares, size)


def _insufficient(shares: list[tuple[Slot, int, int]], size: int) -> Reason:
    with_memory = [share for share in shares if share[0].memory >= share[1]]
    each = f" on each of {size} devices" if size > 1 else ""
    if len(with_memory) >= size:
        slot, _, compute = max(with_memory, key=lambda share: share[0].compute)
        free = f"at most {max(0, slot.compute) / 10:g}% is free on device {slot.device.index}"
        fitting = sum(1 for slot, _, compute in with_memory if slot.compute >= compute)
        have = f"{_devices(fitting)} of the node can give it" if size > 1 else free
        return Reason(SchedulingReason.INSUFFICIENT_COMPUTE, f"needs {compute / 10:g}% of the compute{each}, {have}")
    slot, memory, _ = max(shares, key=lambda share: share[0].memory)
    free = f"at most {format_bytes(max(0, slot.memory))} is free on device {slot.device.index}"
    have = f"{_devices(len(with_memory))} of the node can give it" if size > 1 else free
    return Reason(SchedulingReason.INSUFFICIENT_MEMORY, f"needs {format_bytes(memory)}{each}, {have}")


def words_for_ports(ports: tuple[int, ...]) -> str:
    """host port 80; host ports 80, 443."""
    return f"host port{'s' if len(ports) != 1 else ''} {', '.join(map(str, ports))}"


def _times(free: tuple[int, int], memory: int, compute: int) -> int:
    return min(free[0] // memory, free[1] // compute)


def _devices(count: int) -> str:
    return f"{count} device{'s' if count != 1 else ''}"
