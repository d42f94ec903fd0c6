"""The earliest start that a gang can have, and its seats then. Pure; exact for equal members, see `cycle`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

from cumulus.scheduling.assign import Seat, assign, uniform
from cumulus.scheduling.availability import Availability, Offer, Pool
from cumulus.scheduling.equivalence import Uniform, uniform_shape
from cumulus.scheduling.snapshot import Gang

SCANNED_STARTS = 64
"""Up to so many possible starts are tried one by one, more are bisected."""

NotBefore = dict[tuple[Uniform, int], int]
"""What is known of a shape for a length: it starts no earlier than that."""


def earliest(
    availability: Availability, gang: Gang, length: int, not_before: NotBefore
) -> tuple[int, list[Seat]] | None:
    """The first start, in microseconds from now, from which the gang can have its shares for `length`, and where; None
    where no ready node could ever hold it. `not_before` is used and added to: it holds until something is given
    back."""
    pools = {availability.pool(member.demand.filter) for member in gang.members}
    if not all(availability.pool(r.demand.filter).could_hold(r.demand) for r in gang.members):
        return None
    shape = uniform_shape(gang)
    ports = tuple({port for member in gang.members for port in member.demand.ports})
    if shape == (gang.members[0].demand, 1, 1) and not ports:
        first = availability.pool(shape.demand.filter).earliest(shape.demand, length)
        return (first[0], [Seat(first[1].slot, first[1].memory, first[1].compute)]) if first else None
    low, guess = 1, None
    if shape is not None:
        bounds = _bounds(availability.pool(shape.demand.filter), shape, length)
        if bounds is None:
            return None
        low, guess = max(bounds[0], not_before.get((shape, length), 1)), bounds[1]
    times = availability.ports_free_from(ports).union(*(pool.starts() for pool in pools))
    starts = sorted(time for time in times if time >= low)
    found = _first_start(starts, guess, lambda start: assign(availability, gang, start, length))
    if found is not None and shape is not None:
        not_before[shape, length] = found[0]
    return found


def _bounds(pool: Pool, shape: Uniform, length: int) -> tuple[int, int | None] | None:
    """A time before which the gang can't start, and one at which it can where no reservation is in the way.

    Counted from when each device can give its first share: at the least all that it ever could, at the most that
    one. None where even whole devices do not suffice; no second bound where one share of each does not.
    """
    reached = 0

    def in_order(*, one_each: bool) -> Iterator[Offer]:
        nonlocal reached
        for start, offer in arrivals:
            reached = start
            yield offer._replace(times=1) if one_each else offer

    arrivals = pool.arrivals(shape.demand, length)
    if uniform(in_order(one_each=False), shape.groups, shape.size) is None:
        return None
    low = reached
    one_each = uniform(in_order(one_each=True), shape.groups, shape.size)
    return low, None if one_each is None else reached


def _first_start(
    starts: list[int], guess: int | None, attempt: Callable[[int], list[Seat] | None]
) -> tuple[int, list[Seat]] | None:
    """The first of the sorted `starts` at which the attempt works, looked for up to `guess` first.

    Many starts are bisected: without reservations in the way what is free only grows, so that this is exact for
    the first gang that waits; for others the result is a start that works, perhaps not the very first.
    """
    if len(starts) <= SCANNED_STARTS:
        for start in starts:
            seats = attempt(start)
            if seats is not None:
                return start, seats
        return None
    for last in sorted({bisect_left(starts, guess) if guess is not None else len(starts) - 1, len(starts) - 1}):
        seats = attempt(starts[last])
        if seats is not None:
            return _bisected(starts[:last], attempt) or (starts[last], seats)
    return None


def _bisected(starts: list[int], attempt: Callable[[int], list[Seat] | None]) -> tuple[int, list[Seat]] | None:
    best = None
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        seats = attempt(starts[middle])
        if seats is not None:
            best, high = (starts[middle], seats), middle
        else:
            low = middle + 1
    return best
