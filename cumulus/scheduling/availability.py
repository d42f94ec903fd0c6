"""What is free of each device during one cycle, now and later, indexed so that a best fit needs no scan.

`place` takes shares and makes reservations here. Within a cycle shares are only ever taken, never given back:
what did not fit once does not fit later, and the earliest start of anything only moves back. A reservation that was
promised is the one thing that may be lifted, for the gang that it is kept for, before any other is considered.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

from cumulus.resources.device import FULL_COMPUTE, Device
from cumulus.scheduling import fit
from cumulus.scheduling.claim import Demand, Filter
from cumulus.scheduling.snapshot import Snapshot
from cumulus.scheduling.timeline import MICROSECOND, FreeTimeline, ReturningShare


class Slot:
    """One device of a node, and what is taken of it so far in this cycle."""

    __slots__ = ("_taken", "_timeline", "compute", "device", "memory", "node", "order", "reserved")

    def __init__(self, order: int, node: str, device: Device, taken: list[ReturningShare]) -> None:
        self.order = order
        self.node = node
        self.device = device
        memory, compute = device.memory_bytes, FULL_COMPUTE
        for _, bytes_, millis in taken:
            memory -= bytes_
            compute -= millis
        self.memory = memory
        """Bytes free now."""
        self.compute = compute
        self.reserved: list[str] = []
        """Gangs for which something is kept here."""
        self._taken = taken
        self._timeline: FreeTimeline | None = None

    @property
    def place(self) -> tuple[str, int]:
        """The node's name and the device's index there."""
        return self.node, self.device.index

    @property
    def timeline(self) -> FreeTimeline:
        if self._timeline is None:
            self._timeline = FreeTimeline(self.device.memory_bytes, FULL_COMPUTE, self._taken)
        return self._timeline

    def free(self, start: int, length: int) -> tuple[int, int]:
        """The most memory and compute that a share from `start` for `length` may take."""
        if start == 0 and not self.reserved:
            return self.memory, self.compute
        return self.timeline.free(start, length)

    def take(self, length: int, memory: int, compute: int) -> None:
        self.memory -= memory
        self.compute -= compute
        if self._timeline is None:
            self._taken.append((length, memory, compute))
        else:
            self._timeline.take(0, length, memory, compute)

    def reserve(self, start: int, length: int, memory: int, compute: int, gang: str) -> None:
        self.timeline.take(start, length, memory, compute)
        self.reserved.append(gang)

    def lift(self, start: int, length: int, memory: int, compute: int, gang: str) -> None:
        self.timeline.take(start, length, -memory, -compute)
        self.reserved.remove(gang)


class Offer(NamedTuple):
    """A slot with the share that a demand takes of it, and how many such shares it can give."""

    slot: Slot
    memory: int
    compute: int
    times: int


class Booking(NamedTuple):
    """Host ports of a node that are taken or kept for a time."""

    start: int
    end: int
    ports: tuple[int, ...]
    holder: str
    reserved: bool

    def overlaps(self, ports: tuple[int, ...], start: int, end: int) -> bool:
        return self.start < end and start < self.end and not set(ports).isdisjoint(self.ports)


class Availability:
    """All slots of ready nodes that are not cordoned, in the order of node names and device indices."""

    def __init__(self, snapshot: Snapshot, *, empty: bool = False) -> None:
        """With `empty`, that of all nodes, ready or not, with nothing taken."""
        self._nodes = {node.name: node for node in snapshot.nodes if empty or fit.unavailable(node) is None}
        taken: dict[tuple[str, int], list[ReturningShare]] = {}
        now = snapshot.now
        for hold in () if empty else snapshot.holds:
            share = ((hold.returns_at - now) // MICROSECOND, hold.memory_bytes, hold.compute)
            place = (hold.node, hold.device)
            there = taken.get(place)
            if there is None:
                taken[place] = [share]
            else:
                there.append(share)
        self._slots: dict[str, list[Slot]] = {}
        self.slots: list[Slot] = []
        for name, node in self._nodes.items():
            self._slots[name] = []
            failed = () if empty else {index for index, _ in node.faults}
            for device in node.devices:
                if device.index in failed:
                    continue
                slot = Slot(len(self.slots), name, device, taken.get((name, device.index), []))
                self.slots.append(slot)
                self._slots[name].append(slot)
        self._by_place = {slot.place: slot for slot in self.slots}
        self._whole: dict[str, tuple[int, int]] = {}
        self._taken: dict[str, tuple[int, int]] = {}
        for name, slots in self._slots.items():
            memory, compute = sum(slot.device.memory_bytes for slot in slots), FULL_COMPUTE * len(slots)
            self._whole[name] = (max(1, memory), max(1, compute))
            free = sum(slot.memory for slot in slots), sum(slot.compute for slot in slots)
            self._taken[name] = (memory - free[0], compute - free[1])
        self._ports: dict[str, list[Booking]] = {}
        for hold in () if empty else snapshot.holds:
            if hold.ports:
                end = (hold.returns_at - snapshot.now) // MICROSECOND
                self._ports.setdefault(hold.node, []).append(Booking(0, end, hold.ports, hold.name, reserved=False))
        self.changes: list[Slot] = []
        """Every slot from which something was taken, in that order: pools catch up from here."""
        self.reservations = 0
        """How many shares were reserved so far."""
        self.work = 0
        """Slots looked at one by one so far: the measure of what a cycle has cost, the same on every machine."""
        self._pools: dict[Filter, Pool] = {}

    def pool(self, wanted: Filter) -> Pool:
        """The slots whose node and device match."""
        pool = self._pools.get(wanted)
        if pool is None:
            pool = self._pools[wanted] = Pool(self, self._matching(wanted))
        return pool

    def on_node(self, name: str) -> list[Slot]:
        """The node's slots; none where it takes nothing new."""
        return self._slots.get(name, [])

    def load(self, node: str, memory: int = 0, compute: int = 0) -> float:
        """How much of the node is taken now, from 0 to 1, of its memory or of its compute, whichever is more; with so
        much more taken of it."""
        taken, whole = self._taken[node], self._whole[node]
        return max((taken[0] + memory) / whole[0], (taken[1] + compute) / whole[1])

    def slot(self, node: str, device: int) -> Slot:
        """The slot of that device. Raises KeyError."""
        return self._by_place[node, device]

    def has(self, node: str, device: int) -> bool:
        """Whether that device takes anything new."""
        return (node, device) in self._by_place

    def ports_booked(self, node: str, ports: tuple[int, ...], start: int, length: int) -> Booking | None:
        """What keeps a gang from having these host ports of the node from `start` for `length`; None where they are
        free."""
        if not ports:
            return None
        return next((b for b in self._ports.get(node, ()) if b.overlaps(ports, start, start + length)), None)

    def ports_free_from(self, ports: tuple[int, ...]) -> set[int]:
        """Every time at which one of these host ports may come free on some node."""
        return {b.end for booked in self._ports.values() for b in booked if not set(ports).isdisjoint(b.ports)}

    def book_ports(self, node: str, start: int, length: int, ports: tuple[int, ...], gang: str) -> None:
        """Take host ports, or keep them for a gang that waits."""
        booking = Booking(start, start + length, ports, gang, reserved=start > 0)
        self._ports.setdefault(node, []).append(booking)

    def take(self, slot: Slot, length: int, memory: int, compute: int) -> None:
        """Bind a share from now for `length` microseconds."""
        slot.take(length, memory, compute)
        self.changes.append(slot)
        taken = self._taken[slot.node]
        self._taken[slot.node] = (taken[0] + memory, taken[1] + compute)

    def reserve(self, slot: Slot, start: int, length: int, memory: int, compute: int, gang: str) -> None:
        """Keep a share from `start` for `length` microseconds for a gang that waits."""
        slot.reserve(start, length, memory, compute, gang)
        self.reservations += 1

    def lift(self, slot: Slot, start: int, length: int, memory: int, compute: int, gang: str) -> None:
        """Give back what `reserve` kept."""
        slot.lift(start, length, memory, compute, gang)
        self.reservations += 1
        for pool in self._pools.values():
            pool.forget(slot)

    def _matching(self, wanted: Filter) -> Iterator[Slot]:
        names = [wanted.node] if wanted.node else list(self._nodes)
        models: dict[tuple[object, ...], bool] = {}
        by_index = wanted.device >= 0 or bool(wanted.avoid)
        for name in names:
            node = self._nodes.get(name)
            if node is None or fit.node_mismatch(wanted, node) is not None:
                continue
            for slot in self._slots[name]:
                device = slot.device
                model = (
                    device.name, device.vendor, device.type, device.memory_bytes, device.enforcement,
                    device.index if by_index else -1,
                )  # fmt: skip
                matches = models.get(model)
                if matches is None:
                    matches = models[model] = fit.device_mismatch(wanted, device) is None
                if matches:
                    yield slot


class Pool:
    """The slots that match a filter, those with equal capacity in order of what is left of them.

    Best fit is the slot that is in use already rather than a whole one, then the one with the least memory
    left over, then the least compute, then the first by node and device.
    """

    def __init__(self, availability: Availability, slots: Iterable[Slot]) -> None:
        self.slots = list(slots)
        self._availability = availability
        self._seen = len(availability.changes)
        self._keys: dict[int, tuple[bool, int, int, int]] = {}
        self._ordered: dict[int, list[tuple[bool, int, int, int]]] = {}
        for slot in self.slots:
            self._keys[slot.order] = key = _key(slot)
            ordered = self._ordered.setdefault(slot.device.memory_bytes, [])
            if key[1] > 0 and key[2] > 0:
                ordered.append(key)
        for ordered in self._ordered.values():
            ordered.sort()
        self._first: dict[tuple[Demand, int], list[tuple[int, int]]] = {}
        self._last_share: dict[int, tuple[Demand, tuple[int, int]]] = {}

    @cached_property
    def _by_node(self) -> dict[str, list[Slot]]:
        found: dict[str, list[Slot]] = {}
        for slot in self.slots:
            found.setdefault(slot.node, []).append(slot)
        return found

    def best(self, demand: Demand, length: int) -> Offer | None:
        """The best fit for one share from now for `length` microseconds."""
        self._catch_up()
        best: tuple[tuple[bool, int, int, int], Offer] | None = None
        for capacity in self._ordered:
            found = next(self._walk(capacity, demand, length), None)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
        return best[1] if best else None

    def offers(self, demand: Demand, start: int, length: int) -> Iterator[Offer]:
        """Every slot that can give the share at least once from `start` for `length`, best fit first."""
        if start == 0:
            self._catch_up()
            walks = [self._walk(capacity, demand, length) for capacity in self._ordered]
            return (offer for _, offer in (walks[0] if len(walks) == 1 else heapq.merge(*walks)))
        found = []
        for slot, memory, compute in self._shares(demand):
            free = slot.free(start, length)
            if free[0] >= memory and free[1] >= compute:
                times = min(free[0] // memory, free[1] // compute)
                key = (is_whole(slot, *free), free[0] - memory, free[1] - compute, slot.order)
                found.append((key, Offer(slot, memory, compute, times)))
        found.sort()
        return (offer for _, offer in found)

    def nodes(self) -> Iterable[str]:
        """The nodes that have one of its slots."""
        return self._by_node

    def offers_on(self, node: str, demand: Demand, length: int) -> list[Offer]:
        """Every slot of the node that can give the share at least once from now for `length`."""
        found = []
        capacity = -1
        for slot in self._by_node[node]:
            if slot.device.memory_bytes != capacity:
                capacity = slot.device.memory_bytes
                memory, compute = fit.share_of(demand, capacity)
            if slot.memory < memory or slot.compute < compute:
                continue
            free = slot.free(0, length)
            times = min(free[0] // memory, free[1] // compute)
            if times > 0:
                found.append(Offer(slot, memory, compute, times))
        return found

    def earliest(self, demand: Demand, length: int) -> tuple[int, Offer] | None:
        """The earliest start of one share, and where. None where no slot could ever give it.

        Slots wait in a heap by a start that is known to be no later than theirs: the one of a share of the same
        size for the next smaller power of two, which serves all lengths up to its double.
        """
        least = 1 << (length.bit_length() - 1)
        heap = self._first.get((demand, least))
        if heap is None:
            starts = ((slot.timeline.earliest(m, c, least), slot.order) for slot, m, c in self._shares(demand))
            heap = [(start, order) for start, order in starts if start is not None]
            heapq.heapify(heap)
            self._first[demand, least] = heap
        best: tuple[int, Offer] | None = None
        seen = []
        while heap and (best is None or heap[0][0] < best[0]):
            slot = self._availability.slots[heapq.heappop(heap)[1]]
            self._availability.work += 1
            memory, compute = fit.share_of(demand, slot.device.memory_bytes)
            bound = slot.timeline.earliest(memory, compute, least)
            start = bound if least == length else slot.timeline.earliest(memory, compute, length)
            if bound is not None and start is not None:
                seen.append((bound, slot.order))
                if best is None or (start, slot.order) < (best[0], best[1].slot.order):
                    best = (start, Offer(slot, memory, compute, 1))
        for entry in seen:
            heapq.heappush(heap, entry)
        return best

    def forget(self, slot: Slot) -> None:
        """Something of the slot was given back: what was known of its earliest starts is not so any more."""
        if slot.order in self._keys:
            for heap in self._first.values():
                heapq.heappush(heap, (0, slot.order))

    def arrivals(self, demand: Demand, length: int) -> list[tuple[int, Offer]]:
        """The earliest start of one share on each slot, in order, with how many such the whole device can give."""
        found = []
        for slot, memory, compute in self._shares(demand):
            start = slot.timeline.earliest(memory, compute, length)
            if start is not None:
                times = min(slot.device.memory_bytes // memory, FULL_COMPUTE // compute)
                found.append((start, Offer(slot, memory, compute, times)))
        found.sort(key=lambda arrival: (arrival[0], arrival[1].slot.order))
        return found

    def could_hold(self, demand: Demand) -> bool:
        """Whether some device is large enough for the share."""
        return any(fit.share_of(demand, capacity)[0] <= capacity for capacity in self._ordered)

    def starts(self) -> set[int]:
        """Every time at which a slot may have more free than before."""
        return {time for slot in self.slots for time in slot.timeline.times}

    def _shares(self, demand: Demand) -> Iterator[tuple[Slot, int, int]]:
        """The slots that are large enough, with the share's memory and compute on each."""
        self._availability.work += len(self.slots)
        shares = {capacity: fit.share_of(demand, capacity) for capacity in self._ordered}
        for slot in self.slots:
            memory, compute = shares[slot.device.memory_bytes]
            if memory <= slot.device.memory_bytes:
                yield slot, memory, compute

    def _share(self, demand: Demand, capacity: int) -> tuple[int, int]:
        """As `fit.share_of`: thousands ask with one demand."""
        last = self._last_share.get(capacity)
        if last is None or last[0] is not demand:
            last = self._last_share[capacity] = demand, fit.share_of(demand, capacity)
        return last[1]

    def _walk(self, capacity: int, demand: Demand, length: int) -> Iterator[tuple[tuple[bool, int, int, int], Offer]]:
        memory, compute = self._share(demand, capacity)
        ordered = self._ordered[capacity]
        slots = self._availability.slots
        for index in range(bisect_left(ordered, (False, memory)), len(ordered)):
            whole, free_memory, free_compute, order = ordered[index]
            if free_compute < compute or free_memory < memory:
                continue
            slot = slots[order]
            free = (free_memory, free_compute) if not slot.reserved else slot.free(0, length)
            times = min(free[0] // memory, free[1] // compute)
            if times > 0:
                yield (whole, free_memory - memory, free_compute - compute, order), Offer(slot, memory, compute, times)

    def _catch_up(self) -> None:
        changes = self._availability.changes
        for slot in changes[self._seen :]:
            old = self._keys.get(slot.order)
            new = _key(slot)
            if old is None or old == new:
                continue
            ordered = self._ordered[slot.device.memory_bytes]
            if old[1] > 0 and old[2] > 0:
                del ordered[bisect_left(ordered, old)]
            if new[1] > 0 and new[2] > 0:
                insort(ordered, new)
            self._keys[slot.order] = new
        self._seen = len(changes)


def is_whole(slot: Slot, memory: int, compute: int) -> bool:
    """Whether what is free is the whole device."""
    return memory == slot.device.memory_bytes and compute == FULL_COMPUTE


def _key(slot: Slot) -> tuple[bool, int, int, int]:
    return (is_whole(slot, slot.memory, slot.compute), slot.memory, slot.compute, slot.order)
