"""Finds slots for all members of a gang at one moment, or says that there are none.

Groups of a gang go to one node each, on distinct devices of it: those that leave the least over or, where the gang is
spread, the least loaded. A gang that is not spread goes to one node, on devices that are linked well, where one of a
few nodes has room for all of it. Neither preference decides whether there are seats. Gangs of equal members, the only
ones that the job controller makes, are solved exactly and fast; any other by a bounded search.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from cumulus.resources.device import FULL_COMPUTE, counted_share
from cumulus.scheduling import linking
from cumulus.scheduling.availability import Availability, Offer, Slot, is_whole
from cumulus.scheduling.claim import Demand
from cumulus.scheduling.equivalence import Uniform, groups_of, ports_of, uniform_shape
from cumulus.scheduling.snapshot import Gang, Member

LINKED_NODES = 4
"""Nodes, in the order of preference, that are looked at for one on which the whole gang fits and is linked best."""

SEARCH_STEPS = 5_000
"""Slots that the search for a mixed gang tries before it gives up for this cycle."""


class Seat(NamedTuple):
    """The slot and share that one member gets."""

    slot: Slot
    memory: int
    compute: int

    @property
    def share(self) -> tuple[str, int]:
        """What it takes, as policies count it: see `policy.TakenShare`."""
        device = self.slot.device
        return device.name, counted_share(self.memory, self.compute, device.memory_bytes)


def assign(availability: Availability, gang: Gang, start: int, length: int) -> list[Seat] | None:
    """Seats for the gang's members, in their order, all from `start` for `length`; None where they don't fit. From now
    on, on the node that has their checkpoint, if that has room."""
    if start == 0 and any(member.demand.filter.saved_on for member in gang.members):
        found = _assign(availability, replace(gang, members=tuple(map(_at_home, gang.members))), start, length)
        if found is not None:
            return found
    return _assign(availability, gang, start, length)


def _at_home(member: Member) -> Member:
    demand = member.demand
    home = demand.filter.node or demand.filter.saved_on
    return replace(member, demand=replace(demand, filter=replace(demand.filter, node=home)))


def _assign(availability: Availability, gang: Gang, start: int, length: int) -> list[Seat] | None:
    members = gang.members
    # Only what is bound now is spread: of a reservation the size counts, and where it goes is chosen when it starts.
    spread = gang.spread and start == 0
    if len(members) == 1 and start == 0 and not spread and not members[0].demand.ports:
        offer = availability.pool(members[0].demand.filter).best(members[0].demand, length)
        return [Seat(offer.slot, offer.memory, offer.compute)] if offer else None
    groups, shape = groups_of(gang), uniform_shape(gang)
    if shape is not None and spread:
        found = spread_out(availability, shape, length)
    elif shape is not None:
        found = _linked(availability, shape, length) if start == 0 else None
        found = found or uniform(_offers(availability, shape.demand, start, length), *shape[1:], most=_most(shape))
    else:
        found = _Search(availability, gang, groups, start, length).run()
    if found is None:
        return None
    seats: list[Seat | None] = [None] * len(members)
    for group, given in zip(groups, found, strict=True):
        for index, seat in zip(group, given, strict=True):
            seats[index] = seat
    return [seat for seat in seats if seat is not None]


def _offers(availability: Availability, demand: Demand, start: int, length: int) -> Iterator[Offer]:
    """Offers of nodes that have the demand's host ports to give, best fit first."""
    offers = availability.pool(demand.filter).offers(demand, start, length)
    if not demand.ports:
        return offers
    return (o for o in offers if availability.ports_booked(o.slot.node, demand.ports, start, length) is None)


def _most(shape: Uniform) -> int:
    """How many groups one node may hold at most: one where each needs the same host ports."""
    return 1 if shape.demand.ports else shape.groups


def uniform(offers: Iterable[Offer], groups: int, size: int, *, most: int | None = None) -> list[list[Seat]] | None:
    """Seats for `groups` groups of `size` equal members each, at most `most` of them on one node, from offers in
    order of preference.

    Takes offers until they suffice. A node whose slots can give the share c1, c2, … times holds g groups just
    when min(c1, g) + min(c2, g) + … >= g * size (Gale and Ryser).
    """
    nodes: dict[str, list[Offer]] = {}
    room: dict[str, int] = {}
    missing = groups
    for offer in offers:
        node = offer.slot.node
        there = nodes.setdefault(node, [])
        there.append(offer)
        if len(there) >= size:
            held = _groups_held([offer.times for offer in there], size, groups if most is None else most)
            missing -= held - room.get(node, 0)
            room[node] = held
            if missing <= 0:
                break
    if missing > 0:
        return None
    found: list[list[Seat]] = []
    for node, held in room.items():
        found += _packed(nodes[node], min(held, groups - len(found)), size)
    return found


def _linked(availability: Availability, shape: Uniform, length: int) -> list[list[Seat]] | None:
    """Seats from now on for all groups on one node, the best linked of the first that have room for them; None where
    none of those has."""
    demand, groups, size = shape
    if _most(shape) < groups:
        return None
    pool = availability.pool(demand.filter)
    best: tuple[int, list[list[Seat]]] | None = None
    tried: set[str] = set()
    for offer in _offers(availability, demand, 0, length):
        node = offer.slot.node
        if node in tried:
            continue
        tried.add(node)
        there = sorted(pool.offers_on(node, demand, length), key=_fit)
        if _groups_held([offer.times for offer in there], size, groups) == groups:
            found = _packed(there, groups, size)
            worst = linking.worst([seat.slot.device for group in found for seat in group])
            if best is None or worst < best[0]:
                best = worst, found
            if worst <= linking.FASTEST or not any(offer.slot.device.links for offer in there):
                break
        if len(tried) == LINKED_NODES:
            break
    return None if best is None else best[1]


def _fit(offer: Offer) -> tuple[bool, int, int, int]:
    """The best fit first, as `Pool` says."""
    slot = offer.slot
    whole = is_whole(slot, slot.memory, slot.compute)
    return whole, slot.memory - offer.memory, slot.compute - offer.compute, slot.order


def spread_out(availability: Availability, shape: Uniform, length: int) -> list[list[Seat]] | None:
    """Seats from now on for each group in turn on the node that is least loaded by then, there on the devices with
    the most left. Finds seats just when `uniform` does: how many groups a node holds is the same, whatever goes on
    others."""
    demand, groups, size = shape
    pool = availability.pool(demand.filter)
    nodes = [(availability.load(name), name) for name in pool.nodes()]
    heapify(nodes)
    offers: dict[str, list[Offer]] = {}
    room: dict[str, int] = {}
    counts: Counter[str] = Counter()
    turns: list[str] = []
    while nodes and len(turns) < groups:
        _, name = heappop(nodes)
        if name not in offers:
            offers[name] = pool.offers_on(name, demand, length)
            free = availability.ports_booked(name, demand.ports, 0, length) is None
            room[name] = _groups_held([o.times for o in offers[name]], size, _most(shape)) if free else 0
        if counts[name] < room[name]:
            counts[name] += 1
            turns.append(name)
            taken = counts[name] * size
            more = availability.load(name, taken * offers[name][0].memory, taken * offers[name][0].compute)
            heappush(nodes, (more, name))
    if len(turns) < groups:
        return None
    seats = {name: iter(_levelled(offers[name], count, size)) for name, count in counts.items()}
    return [next(seats[name]) for name in turns]


def _levelled(offers: list[Offer], groups: int, size: int) -> list[list[Seat]]:
    """Seats on one node that is known to hold them, each group on the devices with the most left to give."""
    left = [min(offer.times, groups) for offer in offers]
    taken = [0] * len(offers)

    def fullness(index: int) -> tuple[int, float, int]:
        offer = offers[index]
        slot = offer.slot
        free_memory = (slot.memory - taken[index] * offer.memory) / slot.device.memory_bytes
        free_compute = (slot.compute - taken[index] * offer.compute) / FULL_COMPUTE
        return -left[index], -min(free_memory, free_compute), index

    found = []
    for _ in range(groups):
        picks = sorted(sorted(range(len(offers)), key=fullness)[:size])
        for pick in picks:
            left[pick] -= 1
            taken[pick] += 1
        found.append([Seat(offers[pick].slot, offers[pick].memory, offers[pick].compute) for pick in picks])
    return found


def _groups_held(times: Sequence[int], size: int, most: int) -> int:
    held = min(sum(min(count, most) for count in times) // size, most)
    while held and sum(min(count, held) for count in times) < held * size:
        held -= 1
    return held


def _packed(offers: list[Offer], groups: int, size: int) -> list[list[Seat]]:
    """Seats on one node that is known to hold them: on the fewest preferred slots that suffice, as well linked as can
    be, each group on those with the most left to give."""
    if groups == 0:
        return []
    chosen: list[Offer] = []
    for offer in offers:
        chosen.append(offer)
        if sum(min(offer.times, groups) for offer in chosen) >= groups * size:
            break
    matters = not linking.all_alike(offer.slot.device for offer in offers)
    if matters and 1 < len(chosen) < len(offers):
        chosen = _closest(offers, groups, size, len(chosen))
    left = [min(offer.times, groups) for offer in chosen]
    found = []
    for _ in range(groups):
        picks = sorted(range(len(chosen)), key=lambda index: (-left[index], index))[:size]
        if matters and size > 1:
            picks = _closest_picks(chosen, left, picks)
        for pick in picks:
            left[pick] -= 1
        found.append([Seat(chosen[pick].slot, chosen[pick].memory, chosen[pick].compute) for pick in sorted(picks)])
    return found


def _closest(offers: list[Offer], groups: int, size: int, count: int) -> list[Offer]:
    """`count` of the offers that hold the groups, grown from each in turn by the one that is linked to them best; those
    that are preferred where that makes no difference."""
    devices = [offer.slot.device for offer in offers]
    best: tuple[int, list[int]] | None = None
    for seed in range(len(offers)):
        taken = [seed]
        reach = [linking.rank(devices[seed], device) for device in devices]
        while len(taken) < count:
            more = min((reach[index], index) for index in range(len(offers)) if index not in taken)[1]
            taken.append(more)
            reach = [max(far, linking.rank(devices[more], d)) for far, d in zip(reach, devices, strict=True)]
        if sum(min(offers[index].times, groups) for index in taken) < groups * size:
            continue
        worst = linking.worst([devices[index] for index in taken])
        if best is None or worst < best[0]:
            best = worst, sorted(taken)
    return [offers[index] for index in best[1]] if best else offers[:count]


def _closest_picks(chosen: list[Offer], left: list[int], picks: list[int]) -> list[int]:
    """As good for the groups that follow, and linked better: of slots with equally much left those next to the others
    that are picked."""
    devices = [offer.slot.device for offer in chosen]
    least = left[picks[-1]]
    taken = [index for index in picks if left[index] > least]
    rest = [index for index in range(len(chosen)) if left[index] == least]
    while len(taken) < len(picks):
        more = min((linking.worst([devices[i] for i in (*taken, index)]), index) for index in rest)[1]
        rest.remove(more)
        taken.append(more)
    return taken


class _Search:
    """Depth-first over groups, hardest first, each on every node that is not like one tried before; the largest set
    of equal groups comes last and is solved exactly."""

    def __init__(
        self, availability: Availability, gang: Gang, groups: list[list[int]], start: int, length: int
    ) -> None:
        self._gang = gang
        self._groups = groups
        self._steps = SEARCH_STEPS
        self._offers: dict[Demand, dict[str, list[Offer]]] = {}
        self._free: dict[int, tuple[int, int]] = {}
        self._wanted_by: dict[int, tuple[Demand, ...]] = {}
        for demand in dict.fromkeys(member.demand for member in gang.members):
            by_node: dict[str, list[Offer]] = {}
            for offer in _offers(availability, demand, start, length):
                slot = offer.slot
                by_node.setdefault(slot.node, []).append(offer)
                self._free[slot.order] = slot.free(start, length)
                self._wanted_by[slot.order] = (*self._wanted_by.get(slot.order, ()), demand)
            self._offers[demand] = by_node
        self._dead: set[tuple[int, tuple[object, ...]]] = set()
        self._touched: dict[int, int] = {}
        self._ports = [ports_of(gang, group) for group in groups]
        self._booked: dict[str, tuple[int, ...]] = {}
        """Host ports that the groups placed so far have of each node."""

    def run(self) -> list[list[Seat]] | None:
        """Seats by group, in the order of `groups`."""
        alike = self._most_alike()
        order = sorted((index for index in range(len(self._groups)) if index not in alike), key=self._ease)
        tries: list[Iterator[list[Seat]]] = []
        placed: list[list[Seat]] = []
        while True:
            if len(placed) == len(order):
                rest = self._seat_alike(alike)
                if rest is not None:
                    by_group = dict(zip((*order, *alike), (*placed, *rest), strict=True))
                    return [by_group[index] for index in range(len(self._groups))]
            elif len(tries) == len(placed):
                tries.append(self._placements(order[len(placed)]))
            state = (len(placed), self._state())
            alive = len(placed) < len(order) and state not in self._dead and self._steps > 0
            seats = next(tries[-1], None) if alive else None
            if seats is not None:
                self._apply(order[len(placed)], seats, 1)
                placed.append(seats)
                continue
            self._dead.add(state)
            del tries[len(placed) :]
            if not placed:
                return None
            seats = placed.pop()
            self._apply(order[len(placed)], seats, -1)

    def _most_alike(self) -> list[int]:
        """The largest set of equal groups of equal members: they come last and need no search."""
        kinds: dict[tuple[Demand, ...], list[int]] = {}
        for index, group in enumerate(self._groups):
            demands = tuple(self._gang.members[member].demand for member in group)
            if len(set(demands)) == 1:
                kinds.setdefault(demands, []).append(index)
        return max(kinds.values(), key=len, default=[])

    def _seat_alike(self, groups: list[int]) -> list[list[Seat]] | None:
        if not groups:
            return []
        members = self._groups[groups[0]]
        demand = self._gang.members[members[0]].demand
        offers = []
        for offer in self._by_preference([offer for there in self._offers[demand].values() for offer in there]):
            memory, compute = self._free[offer.slot.order]
            times = min(memory // offer.memory, compute // offer.compute)
            if times > 0 and not self._conflicts(offer.slot.node, groups[0]):
                offers.append(offer._replace(times=times))
        return uniform(offers, len(groups), len(members), most=1 if demand.ports else None)

    def _conflicts(self, node: str, group: int) -> bool:
        """Whether a group that was placed there has one of its host ports."""
        return not set(self._booked.get(node, ())).isdisjoint(self._ports[group])

    def _ease(self, index: int) -> tuple[int, int, int]:
        demands = [self._gang.members[member].demand for member in self._groups[index]]
        nodes = min(len(self._offers[demand]) for demand in demands)
        largest = max((o.memory for d in demands for there in self._offers[d].values() for o in there), default=0)
        return nodes, -largest * len(demands), index

    def _placements(self, group: int) -> Iterator[list[Seat]]:
        demands = [self._gang.members[index].demand for index in self._groups[group]]
        order = sorted(range(len(demands)), key=lambda index: self._rank(demands[index]))
        tried: set[tuple[object, ...]] = set()
        nodes = set.intersection(*(set(self._offers[demand]) for demand in demands))
        for node in sorted(nodes, key=lambda node: self._preference(node, demands)):
            likeness = self._likeness(node)
            if likeness in tried or self._conflicts(node, group):
                continue
            tried.add(likeness)
            for seats in self._choose(node, [demands[index] for index in order], []):
                yield [seats[order.index(index)] for index in range(len(demands))]

    def _choose(self, node: str, demands: list[Demand], chosen: list[Seat]) -> Iterator[list[Seat]]:
        """Every way to give the demands distinct slots of the node, alike slots only once."""
        if len(chosen) == len(demands):
            yield list(chosen)
            return
        demand = demands[len(chosen)]
        used = {seat.slot.order for seat in chosen}
        tried: set[tuple[object, ...]] = set()
        for offer in self._by_preference(self._offers[demand][node]):
            order = offer.slot.order
            like = (self._free[order], self._wanted_by[order], offer.slot.device.memory_bytes)
            if order in used or like in tried or not self._has(offer):
                continue
            self._steps -= 1
            if self._steps <= 0:
                return
            tried.add(like)
            chosen.append(Seat(offer.slot, offer.memory, offer.compute))
            yield from self._choose(node, demands, chosen)
            chosen.pop()

    def _has(self, offer: Offer) -> bool:
        memory, compute = self._free[offer.slot.order]
        return memory >= offer.memory and compute >= offer.compute

    def _by_preference(self, offers: list[Offer]) -> list[Offer]:
        def left(offer: Offer) -> tuple[bool, int, int, int]:
            memory, compute = self._free[offer.slot.order]
            return (
                is_whole(offer.slot, memory, compute),
                memory - offer.memory,
                compute - offer.compute,
                offer.slot.order,
            )

        return sorted(offers, key=left)

    def _preference(self, node: str, demands: list[Demand]) -> tuple[int, str]:
        fitting = (self._free[o.slot.order][0] for d in demands for o in self._offers[d][node] if self._has(o))
        return sum(fitting), node

    def _likeness(self, node: str) -> tuple[object, ...]:
        orders = {o.slot.order: o for there in self._offers.values() for o in there.get(node, ())}
        slots = sorted(
            (self._free[order], offer.slot.device.memory_bytes, str(self._wanted_by[order]))
            for order, offer in orders.items()
        )
        return (self._booked.get(node, ()), *slots)

    def _rank(self, demand: Demand) -> tuple[int, str]:
        return sum(len(there) for there in self._offers[demand].values()), str(demand)

    def _state(self) -> tuple[object, ...]:
        free = sorted((order, self._free[order]) for order, count in self._touched.items() if count)
        return (*free, *sorted((node, ports) for node, ports in self._booked.items() if ports))

    def _apply(self, group: int, seats: list[Seat], sign: int) -> None:
        node = seats[0].slot.node
        booked = set(self._booked.get(node, ()))
        self._booked[node] = tuple(sorted(booked.symmetric_difference(self._ports[group])))
        for slot, memory, compute in seats:
            free = self._free[slot.order]
            self._free[slot.order] = (free[0] - sign * memory, free[1] - sign * compute)
            self._touched[slot.order] = self._touched.get(slot.order, 0) + sign
