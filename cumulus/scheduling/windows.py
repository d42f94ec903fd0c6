"""Devices that are held for a time: which those are, and how one cycle keeps them free for whom they are held. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import NamedTuple

from cumulus.resources.quantity import parse_duration
from cumulus.resources.reservation import Reservation, ReservationStatus, ReservedDevice
from cumulus.resources.schedule import following, latest
from cumulus.scheduling.availability import Availability
from cumulus.scheduling.policy import DevicePlace, HeldWindow, Policies
from cumulus.scheduling.queues import Tree
from cumulus.scheduling.snapshot import Gang, Hold, Snapshot
from cumulus.scheduling.timeline import MICROSECOND

AHEAD = timedelta(days=35)
"""What begins later does not count yet: leases are shorter, as a rule."""
MOST = 16
"""Times of one reservation that count at once."""
LOOKS = 1000
"""Times of a schedule that are looked at. One that begins again and again before it ends goes on after them."""

_NO_END = datetime.max.replace(tzinfo=UTC)

_NOTHING_HELD = nullcontext()


class Planned(NamedTuple):
    """A reservation as it stands now."""

    reservation: Reservation
    status: ReservationStatus
    windows: tuple[HeldWindow, ...]


def with_windows(policies: Policies, planned: Iterable[Planned]) -> Policies:
    """The policies with what is held."""
    windows = tuple(window for each in planned for window in each.windows)
    return replace(policies, windows=windows) if windows else policies


def plan(reservations: Iterable[Reservation], snapshot: Snapshot, tree: Tree) -> list[Planned]:
    """What each reservation holds: of what it held before as much as it can, then devices that are free by then."""
    found: list[Planned] = []
    for reservation in sorted(reservations, key=_order):
        times = _times(reservation, snapshot.now)
        if not times:
            found.append(Planned(reservation, reservation.status, ()))
            continue
        others = {
            place for each in found for window in each.windows for place in window.places
            if any(window.start < end and start < window.end for start, end in times)
        }  # fmt: skip
        places = _places(reservation, snapshot, others, times[0][0])
        spec = reservation.spec
        windows = _windows(reservation, tree, times, places)
        status = ReservationStatus(
            start=times[0][0].isoformat(), end=times[0][1].isoformat(),
            devices=tuple(ReservedDevice(node=node, device=device) for node, device in places),
            missing=0 if spec.devices is None else spec.devices - len(places),
        )  # fmt: skip
        found.append(Planned(reservation, status, windows))
    return found


def held(reservations: Iterable[Reservation], tree: Tree, now: datetime) -> tuple[HeldWindow, ...]:
    """What they hold from now on of the devices that were chosen last."""
    return tuple(
        window
        for each in reservations
        for window in _windows(each, tree, _times(each, now), tuple((d.node, d.device) for d in each.status.devices))
    )


def next_change(windows: Iterable[HeldWindow], now: datetime) -> datetime | None:
    """When the first of them begins or ends."""
    return min((at for window in windows for at in (window.start, window.end) if at > now), default=None)


def next_of_others(windows: Iterable[HeldWindow], hold: Hold, now: datetime) -> HeldWindow | None:
    """The first that holds its device for others than who has it."""
    place = (hold.node, hold.device)
    found = (w for w in windows if place in w.places and w.end > now and not w.admits(hold.queue, hold.user))
    return min(found, key=lambda each: each.start, default=None)


def _order(reservation: Reservation) -> tuple[object, ...]:
    """What is held for nobody goes before the others, since work on a node cannot move; then what holds whole nodes."""
    spec, meta = reservation.spec, reservation.metadata
    somebody = bool(spec.for_.users or spec.for_.queues)
    return somebody, spec.devices is not None, meta.creation_timestamp or "", meta.name


def _windows(
    reservation: Reservation, tree: Tree, times: Iterable[tuple[datetime, datetime]], places: tuple[DevicePlace, ...]
) -> tuple[HeldWindow, ...]:
    named = reservation.spec.for_.queues
    queues = frozenset({*named} | {n for n in tree.names for r in tree.path(n) if r.name in named})
    users = frozenset(reservation.spec.for_.users)
    return tuple(HeldWindow(reservation.metadata.name, users, queues, start, end, places) for start, end in times)


def _times(reservation: Reservation, now: datetime) -> list[tuple[datetime, datetime]]:
    """When it is held, from now on."""
    spec = reservation.spec
    length = timedelta(seconds=parse_duration(spec.duration))
    if spec.schedule is None:
        start = datetime.fromisoformat(spec.start).astimezone(UTC) if spec.start else now - length
        end = start + length if start < _NO_END - length else _NO_END
        return [(start, end)] if now < end and start < now + AHEAD else []
    found: list[tuple[datetime, datetime]] = []
    # One that begins while another goes on makes that one longer.
    at = latest(spec.schedule, spec.time_zone, now - length, now) or following(spec.schedule, spec.time_zone, now)
    for _ in range(LOOKS):
        if at is None or at >= now + AHEAD or len(found) == MOST:
            return found
        if found and at <= found[-1][1]:
            found[-1] = (found[-1][0], at + length)
            if found[-1][1] > now + AHEAD:
                return found
        else:
            found.append((at, at + length))
        at = following(spec.schedule, spec.time_zone, at)
    if at is not None:
        found[-1] = (found[-1][0], at + AHEAD)
    return found


def _places(
    reservation: Reservation, snapshot: Snapshot, others: set[DevicePlace], start: datetime
) -> tuple[DevicePlace, ...]:
    spec = reservation.spec
    matching = [
        (node.name, device.index)
        for node in snapshot.nodes if not spec.nodes or node.name in spec.nodes
        for device in node.devices if fnmatchcase(device.name, spec.device)
    ]  # fmt: skip
    if spec.devices is None:
        return tuple(matching)
    before = {(each.node, each.device) for each in reservation.status.devices}
    until: dict[DevicePlace, datetime] = {}
    for hold in snapshot.holds:
        place = (hold.node, hold.device)
        until[place] = max(hold.returns_at, until.get(place, hold.returns_at))
    usable = {node.name for node in snapshot.nodes if node.ready and not node.cordoned}

    def cost(place: DevicePlace) -> tuple[object, ...]:
        busy = until.get(place, start)
        return (place[0] not in usable, place not in before, max(busy, start), place)

    return tuple(sorted(sorted((p for p in matching if p not in others), key=cost)[: spec.devices]))


class Windows:
    """Those of one cycle, kept on its availability."""

    def __init__(self, windows: Sequence[HeldWindow], availability: Availability, now: datetime) -> None:
        self._availability = availability
        self._now = now
        self._windows = windows
        self._pieces: dict[int, list[tuple[DevicePlace, int, int, int, int]]] = {}
        self._mine: dict[tuple[str, str], tuple[int, ...]] = {}
        for index in range(len(windows)):
            self._keep(index)

    def of(self, gang: Gang) -> tuple[int, ...]:
        """The windows that are held for it."""
        if not self._windows:
            return ()
        place = (gang.queue, gang.user)
        found = self._mine.get(place)
        if found is None:
            found = tuple(i for i, window in enumerate(self._windows) if window.admits(*place))
            self._mine[place] = found
        return found

    def lifted(self, gang: Gang) -> AbstractContextManager[None]:
        """What is held for the gang is free for it, and afterwards held as far as it has left it."""
        if not self._windows:
            return _NOTHING_HELD
        mine = [index for index in self.of(gang) if index in self._pieces]
        return self._lifted(mine) if mine else _NOTHING_HELD

    @contextmanager
    def _lifted(self, mine: Sequence[int]) -> Iterator[None]:
        for index in mine:
            for place, start, length, memory, compute in self._pieces.pop(index):
                slot = self._availability.slot(*place)
                self._availability.lift(slot, start, length, memory, compute, self._name(index))
        yield
        for index in mine:
            self._keep(index)

    def copied(self, availability: Availability, gang: Gang) -> None:
        """Keep on another availability what is held for others than the gang."""
        mine = self.of(gang)
        Windows([window for i, window in enumerate(self._windows) if i not in mine], availability, self._now)

    def _keep(self, index: int) -> None:
        window, pieces = self._windows[index], self._pieces.setdefault(index, [])
        start = max(0, (window.start - self._now) // MICROSECOND)
        end = (window.end - self._now) // MICROSECOND
        for place in window.places:
            if not self._availability.has(*place):
                continue
            slot = self._availability.slot(*place)
            for begin, until, memory, compute in slot.timeline.steps(start, end):
                if memory > 0 or compute > 0:
                    piece = (place, begin, until - begin, max(0, memory), max(0, compute))
                    pieces.append(piece)
                    self._availability.reserve(slot, *piece[1:], self._name(index))

    def _name(self, index: int) -> str:
        return f"reservation {self._windows[index].name}"
