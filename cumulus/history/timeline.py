"""Puts a timeline together: lanes of devices with what was, is and will be on them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cumulus.answers.history import Lane, Span, SpanKind
from cumulus.history.facts import WHOLE, DeviceFact, LeaseFact, NodeFact, PromisedSeat, ReservationFact
from cumulus.history.lanes import Piece, place
from cumulus.history.series import NOTHING, Sample

_Place = tuple[str, int]
"""Node and index."""
Sees = Callable[[str], bool]
"""Whether the viewer may read what is in the namespace; "" for what is in none."""
Tell = Callable[[Span, str, bool], Span]
"""The span of something in that namespace, "" for what is in none, as the viewer may see it; and whether it is over."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the history knows of a lease that runs."""

    pieces: Sequence[Piece]
    last: Sample = NOTHING
    latest_start: int | None = None
    start: int = 0


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """Milliseconds since 1970."""

    start: int
    end: int
    now: int

    def clip(self, start: int, end: int) -> tuple[int, int] | None:
        clipped = max(start, self.start), min(end, self.end)
        return clipped if clipped[0] < clipped[1] else None


@dataclass(slots=True)
class _LaneMade:
    device: DeviceFact
    healthy: bool = False
    spans: list[Span] = field(default_factory=list)
    future: list[tuple[int, int, Piece]] = field(default_factory=list)
    """From when to when which part of it is held or promised."""

    def free_from(self, start: int, end: int) -> Iterator[Piece]:
        """What is taken between."""
        return (piece for begin, until, piece in self.future if begin < end and until > start)


class Lanes:
    """Lanes that fill up. Add the past, then what is held, then what is promised: the later ones lie where there is
    room."""

    def __init__(self, window: TimeWindow, nodes: Iterable[NodeFact], tell: Tell) -> None:
        self._window = window
        self._tell = tell
        self._lanes: dict[_Place, _LaneMade] = {}
        for node in nodes:
            for device in node.devices:
                healthy = node.ready and device.number not in node.faults
                self._lanes[node.name, device.number] = _LaneMade(device, healthy)

    def lane(self, device: DeviceFact) -> _LaneMade:
        """The lane of the device; one that is not there any more has one too."""
        place = device.node, device.number
        if place not in self._lanes:
            self._lanes[place] = _LaneMade(device)
        return self._lanes[place]

    def add_past(self, device: DeviceFact, spans: Iterable[Span]) -> None:
        """Spans that are clipped already, and whose names the viewer may see."""
        self.lane(device).spans.extend(spans)

    def add_states_now(self, nodes: Iterable[NodeFact]) -> None:
        """Drains and failures of this moment, where nobody knows since when they are."""
        for node in nodes:
            for device in node.devices:
                where = node.name, device.number
                if node.cordoned:
                    self._add_state(where, "Drain", self._window.now, None)
                if not node.ready or device.number in node.faults:
                    self._add_state(where, "Down", self._window.now, None)

    def add_states(self, states: Iterable[tuple[str, int, SpanKind, int, int | None]]) -> None:
        """Drains and failures: node, index (-1: all of its devices), kind, from, to (None: it goes on)."""
        by_node: defaultdict[str, list[_Place]] = defaultdict(list)
        for where in self._lanes:
            by_node[where[0]].append(where)
        for node, index, kind, start, end in states:
            for where in by_node[node] if index < 0 else [(node, index)]:
                self._add_state(where, kind, start, end)

    def _add_state(self, where: _Place, kind: SpanKind, start: int, end: int | None) -> None:
        lane = self._lanes.get(where)
        span = self._span(kind, start, self._window.end if end is None else end, Piece(0, WHOLE))
        if lane is not None and span is not None:
            lane.spans.append(span)

    def add_held(self, leases: Sequence[LeaseFact], known: Mapping[str, Known]) -> None:
        """What is held now, and until when at the latest."""
        by_lane: defaultdict[_Place, list[LeaseFact]] = defaultdict(list)
        for lease in leases:
            by_lane[lease.node, lease.device].append(lease)
        for where, some in by_lane.items():
            # Those that have a place keep it, and the others find theirs.
            some.sort(key=lambda lease: (lease.uid not in known, lease.start, lease.uid))
            lane = self._lanes.get(where) or self.lane(DeviceFact(*where, "", some[0].device_name, 0, ""))
            for lease in some:
                self._add_held(lane, lease, known.get(lease.uid))

    def _add_held(self, lane: _LaneMade, lease: LeaseFact, known: Known | None) -> None:
        start = lease.start or (known.start if known is not None else 0)
        end = lease.end if lease.end is not None else max(lease.expires or 0, self._window.now + 1)
        pieces = known.pieces if known is not None else ()
        if lease.parked:
            pieces = (Piece(0, 0),)
        elif not pieces:
            pieces = place(lane.device.height(lease.memory_bytes), lane.free_from(self._window.now, end))
        lane.future += [(start, end, piece) for piece in pieces]
        for piece in pieces:
            span = self._span("Parked" if lease.parked else "Lease", start, end, piece)
            if span is None:
                return
            span["job"] = f"{lease.namespace}/{lease.job}" if lease.job else None
            span["user"] = lease.user or None
            span["phase"], span["enforcement"] = lease.phase, lease.enforcement
            if known is not None:
                span["used"], span["busy"] = known.last
                span["latestStart"] = known.latest_start
            lane.spans.append(self._tell(span, lease.namespace, lease.end is not None))

    def add_promised(self, seats: Iterable[PromisedSeat]) -> None:
        for seat in sorted(seats, key=lambda seat: (seat.start, seat.uid)):
            lane = self._lanes.get((seat.node, seat.device))
            if lane is None:
                continue
            end = seat.start + round(seat.seconds * 1000)
            pieces = place(lane.device.height(seat.memory_bytes(lane.device)), lane.free_from(seat.start, end))
            lane.future += [(seat.start, end, piece) for piece in pieces]
            for piece in pieces:
                span = self._span("Promise", seat.start, end, piece)
                if span is None:
                    break
                span["job"] = f"{seat.fact.namespace}/{seat.fact.job}"
                span["user"] = seat.fact.user or None
                span["phase"], span["latestStart"] = "Promised", seat.start
                lane.spans.append(self._tell(span, seat.fact.namespace, False))

    def add_reservations(self, reservations: Iterable[ReservationFact]) -> None:
        """Whole devices; what runs there may run on until its lease ends."""
        for reservation in reservations:
            for where in reservation.places:
                span = self._span("Reservation", reservation.start, reservation.end, Piece(0, WHOLE))
                lane = self._lanes.get(where)
                if span is not None and lane is not None:
                    span["user"], span["phase"] = reservation.whose or None, "Reserved"
                    lane.spans.append(self._tell(span, "", reservation.end <= self._window.now))

    def made(self) -> list[Lane]:
        return [
            Lane(
                node=lane.device.node, device=lane.device.number, uuid=lane.device.uuid, name=lane.device.name,
                memoryBytes=lane.device.memory_bytes, parent=lane.device.parent or None, healthy=lane.healthy,
                spans=sorted(lane.spans, key=lambda span: (span["start"], span["offset"])),
            )
            for _, lane in sorted(self._lanes.items())
        ]  # fmt: skip

    def _span(self, kind: SpanKind, start: int, end: int, piece: Piece) -> Span | None:
        clipped = self._window.clip(start, end)
        if clipped is None:
            return None
        return Span(
            kind=kind, start=clipped[0], end=clipped[1], share=piece.height / WHOLE, offset=piece.offset / WHOLE,
            used=None, busy=None, job=None, user=None, phase="", enforcement="", latestStart=None, merged=1,
        )  # fmt: skip
