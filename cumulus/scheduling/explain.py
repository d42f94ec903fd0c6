"""Why a gang waits: the reason of each node, who holds what it needs and until when, who is ahead of it.

Computed only for the gang that somebody asks about, from the same cycle that places; `why` and `describe` show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from cumulus.resources.key import Key
from cumulus.resources.quantity import Share, format_bytes, format_duration
from cumulus.resources.reasons import SchedulingReason
from cumulus.scheduling import linking
from cumulus.scheduling.assign import assign
from cumulus.scheduling.availability import Availability
from cumulus.scheduling.claim import Demand
from cumulus.scheduling.cycle import BackfillReservation, Binding, Cycle, Refusal
from cumulus.scheduling.equivalence import uniform_shape
from cumulus.scheduling.fit import Reason, utc
from cumulus.scheduling.forecast import expected_starts
from cumulus.scheduling.fragments import would_fit_if
from cumulus.scheduling.node_reasons import NodeReason, node_reasons, words_for_ports
from cumulus.scheduling.policy import DEFAULT, HeldWindow, Policies
from cumulus.scheduling.snapshot import Gang, Hold, IncompleteGang, ReturnsBy, Snapshot
from cumulus.scheduling.timeline import microseconds

EXPLAIN_WORK = 1_000_000
"""Devices that `explain` looks at, one by one, before it gives up on saying when a gang far back starts."""


class GangState(StrEnum):
    """What becomes of a gang in the queue."""

    FITS = "Fits"
    """The next cycle binds it."""
    WAITING = "Waiting"
    """It starts once others' leases are over."""
    NO_NODE = "NoNode"
    """No ready node could hold it, but one that is away, cordoned or not there yet may."""
    NEVER = "Never"
    """No node could hold it even with nothing else there."""
    INCOMPLETE = "Incomplete"
    """Some of its partitions are missing."""
    NOT_ADMITTED = "NotAdmitted"
    """Its queue does not admit it now."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """All there is to say about a gang in the queue."""

    gang: str
    state: GangState
    now: datetime
    reasons: tuple[NodeReason, ...] = ()
    """Why it can't be there now, by node; empty where it fits."""
    blockers: tuple[Hold, ...] = ()
    """In the order in which they end."""
    windows: tuple[HeldWindow, ...] = ()
    """What holds its seats for others after these, until it can start."""
    earliest: datetime | None = None
    """The latest time by which it starts if every lease runs to its end. None where nobody can say: no ready node
    could hold it, or too many are ahead."""
    certain: bool = False
    """`earliest` is a promise, under the conditions that `place` states and proves it for."""
    position: int = 0
    """From 1, in a queue of `queue` gangs."""
    queue: int = 0
    ahead: tuple[str, ...] = ()
    """Jobs, and gangs of no job, that wait before it for some of the same devices."""
    bindings: tuple[Binding, ...] = ()
    """Where it goes, when it fits."""
    linked: str = ""
    """How the devices are linked to which it goes, for people."""
    expected: datetime | None = None
    """When it starts if leases end as early as their like did before."""
    notes: tuple[str, ...] = ()
    """What gives it its place, where there are queues."""
    instead: tuple[str, ...] = ()
    """What it could ask for instead to start now: a lease of 20m; half of the share."""
    moved: str = ""
    """Which other lease on another device would make room for it: there is enough, but in pieces."""

    @property
    def headline(self) -> str:
        """One sentence."""
        return _headline(self)

    def lines(self, limit: int = 10) -> list[str]:
        """Text for people, at most `limit` nodes, blockers and gangs each."""
        return list(_lines(self, limit))


def explain(snapshot: Snapshot, partition: Key, policies: Policies = DEFAULT) -> Explanation | None:
    """Why the gang of this partition waits. None where the partition is not in the queue."""
    gang = snapshot.gang_of(partition)
    if gang is None:
        missing = next((g for g in snapshot.incomplete if partition in g.partitions), None)
        return _incomplete(snapshot, missing) if missing is not None else None
    cycle = Cycle(snapshot, policies)
    position = cycle.queue.index(gang) + 1
    for other in cycle.queue[: position - 1]:
        if not cycle.bind(other):
            cycle.refuse(other)
    if cycle.bind(gang):
        bindings = tuple(cycle.bindings[-len(gang.members) :])
        places = [(b.node, cycle.availability.slot(b.node, b.device).device) for b in bindings]
        return Explanation(
            gang.name, GangState.FITS, snapshot.now, position=position, queue=len(snapshot.pending), bindings=bindings,
            linked=linking.words(places),
        )  # fmt: skip
    if cycle.not_admitted is not None:
        return _not_admitted(snapshot, gang, cycle.not_admitted)
    admitted = cycle.admitted(gang)
    with cycle.windows.lifted(gang):
        reasons = node_reasons(snapshot, cycle.availability, admitted)
        instead = _instead(cycle, admitted) if policies.promises else ()
    ahead = _competitors(cycle, admitted)
    moved = "" if ahead or cycle.bindings else would_fit_if(snapshot, cycle.windows, admitted)
    reservation, far_back = cycle.take_back(gang), False
    if reservation is None:
        reservation, far_back = _reserve_in_turn(cycle, gang, ahead)
    state = GangState.WAITING if reservation else _state_without_start(snapshot, gang, reasons, far_back=far_back)
    blockers = _blockers(snapshot, cycle, reservation) if reservation else ()
    windows = _windows_between(snapshot, policies, gang, reservation, blockers) if reservation else ()
    if policies.promises:
        earliest = gang.promised or (None if reservation is None else reservation.start)
        certain = gang.promised is not None
    else:
        earliest = reservation.start if reservation else None
        certain = reservation is not None and not ahead and _is_bound_to_be(gang, blockers)
    return Explanation(
        gang=gang.name,
        state=state,
        now=snapshot.now,
        reasons=reasons,
        blockers=blockers,
        windows=windows,
        earliest=earliest,
        certain=certain,
        expected=expected_starts(snapshot, policies, position).get(gang.name) if policies.promises else None,
        notes=(*policies.note(snapshot, gang), *_taken_back(snapshot, cycle, gang)),
        instead=instead,
        moved=moved,
        position=position,
        queue=len(snapshot.pending),
        ahead=tuple(f"job {r.gang.job}" if r.gang.job else r.gang.name for r in ahead),
    )


def _taken_back(snapshot: Snapshot, cycle: Cycle, gang: Gang) -> Iterator[str]:
    """Who gives up a share for it."""
    holds = [
        (hold, hold.returning.at) for hold in snapshot.holds if hold.returning and hold.returning.gang == gang.name
    ]
    holds += [(hold, at) for hold, at, taker in cycle.victims if taker.name == gang.name]
    found = {hold.holder: at for hold, at in holds}
    if found:
        who = ", ".join(f"{name} from {utc(at)} on" for name, at in found.items())
        yield f"its queue takes back what it is sure of: {who}"


def _is_bound_to_be(gang: Gang, blockers: tuple[Hold, ...]) -> bool:
    """Whether a reservation is a promise, where nothing joins the queue before the gang."""
    return uniform_shape(gang) is not None and all(blocker.returns_by.certain for blocker in blockers)


def _instead(cycle: Cycle, gang: Gang) -> tuple[str, ...]:
    """A shorter lease, or a smaller share, with which a gang that has just been refused would start now."""
    found = []
    for part in (0.75, 0.5, 0.25, 0.1, 0.05):
        if assign(cycle.availability, gang, 0, microseconds(gang.seconds * part)) is not None:
            found.append(f"a lease of {format_duration(gang.seconds * part)}")
            break
    for numerator, words in ((2, "half of the share"), (4, "a quarter of the share"), (8, "an eighth of the share")):
        members = tuple(replace(member, demand=_smaller(member.demand, numerator)) for member in gang.members)
        if assign(cycle.availability, replace(gang, members=members), 0, microseconds(gang.seconds)) is not None:
            found.append(words)
            break
    return tuple(found)


def _smaller(demand: Demand, by: int) -> Demand:
    share = demand.memory
    fraction = None if share.fraction is None else share.fraction / by
    size = None if share.size is None else max(1, share.size // by)
    compute = None if demand.compute is None else max(1, demand.compute // by)
    return replace(demand, memory=Share(fraction, size), compute=compute)


def _incomplete(snapshot: Snapshot, gang: IncompleteGang) -> Explanation:
    message = f"{len(gang.partitions)} of the gang's {gang.size} partitions are there"
    reason = NodeReason("", Reason(SchedulingReason.GANG_INCOMPLETE, message))
    return Explanation(gang.name, GangState.INCOMPLETE, snapshot.now, reasons=(reason,), queue=len(snapshot.pending))


def _not_admitted(snapshot: Snapshot, gang: Gang, why: Reason) -> Explanation:
    reasons = (NodeReason("", why),)
    return Explanation(gang.name, GangState.NOT_ADMITTED, snapshot.now, reasons=reasons, queue=len(snapshot.pending))


def _state_without_start(
    snapshot: Snapshot, gang: Gang, reasons: tuple[NodeReason, ...], *, far_back: bool
) -> GangState:
    if not snapshot.nodes or any(reason.reason.code == SchedulingReason.NO_SUCH_NODE for reason in reasons):
        return GangState.NO_NODE
    if assign(Availability(snapshot, empty=True), gang, 0, microseconds(gang.seconds)) is None:
        return GangState.NEVER
    return GangState.WAITING if far_back else GangState.NO_NODE


def _competitors(cycle: Cycle, gang: Gang) -> list[Refusal]:
    """Gangs refused before this one that some device of its could serve, or some node with the same host ports."""
    pools = [cycle.availability.pool(member.demand.filter) for member in gang.members]
    mine = {slot.order for pool in pools for slot in pool.slots}
    nodes = {slot.node for pool in pools for slot in pool.slots}
    ports = {port for member in gang.members for port in member.demand.ports}
    overlaps: dict[object, bool] = {}

    def compete(other: Gang) -> bool:
        for wanted in {(member.demand.filter, member.demand.ports) for member in other.members}:
            if wanted not in overlaps:
                slots = cycle.availability.pool(wanted[0]).slots
                shares = not ports.isdisjoint(wanted[1])
                overlaps[wanted] = any(s.order in mine or (shares and s.node in nodes) for s in slots)
            if overlaps[wanted]:
                return True
        return False

    rivals = (refusal for refusal in cycle.refusals if not refusal.hopeless and refusal.not_admitted is None)
    return [refusal for refusal in rivals if compete(refusal.gang)]


def _reserve_in_turn(cycle: Cycle, gang: Gang, ahead: list[Refusal]) -> tuple[BackfillReservation | None, bool]:
    """The gang's reservation once all who are ahead have theirs; whether it is too far back to work that out."""
    for refusal in ahead:
        if cycle.availability.work > EXPLAIN_WORK:
            return None, True
        if refusal.reservation is None:
            cycle.reserve(refusal.gang)
    return cycle.reserve(gang), False


def _blockers(snapshot: Snapshot, cycle: Cycle, reservation: BackfillReservation) -> tuple[Hold, ...]:
    """The shares whose end the reservation waits for: on each of its devices those that end first, until enough
    is free, and on each of its nodes those that have its host ports."""
    gangs = {member.partition: gang for gang in snapshot.pending for member in gang.members}
    demands = {member.partition: member.demand for gang in snapshot.pending for member in gang.members}
    ports: dict[str, set[int]] = {}
    for kept in reservation.seats:
        ports.setdefault(kept.node, set()).update(demands[kept.partition].ports)
    needed: dict[tuple[str, int], tuple[int, int]] = {}
    for kept in reservation.seats:
        before = needed.get((kept.node, kept.device), (0, 0))
        needed[kept.node, kept.device] = (before[0] + kept.memory_bytes, before[1] + kept.compute)
    holders = [hold for hold in snapshot.holds if hold.node in ports]
    holders += [
        _newcomer(snapshot, binding, gangs[binding.partition], demands[binding.partition].ports)
        for binding in cycle.bindings
        if binding.node in ports
    ]
    holders = [replace(blocker, ports=tuple(sorted(ports[blocker.node] & {*blocker.ports}))) for blocker in holders]
    holders.sort(key=_by_end)
    found = [blocker for blocker in holders if blocker.ports]
    for place, (memory, compute) in needed.items():
        slot = cycle.availability.slot(*place)
        memory, compute = memory - slot.memory, compute - slot.compute
        for blocker in holders:
            if (blocker.node, blocker.device) == place and (memory > 0 or compute > 0):
                if not blocker.ports:
                    found.append(blocker)
                memory, compute = memory - blocker.memory_bytes, compute - blocker.compute
    return tuple(sorted(found, key=_by_end))


def _windows_between(
    snapshot: Snapshot, policies: Policies, gang: Gang, kept: BackfillReservation, blockers: tuple[Hold, ...]
) -> tuple[HeldWindow, ...]:
    """What holds the seats of a gang for others when those before it have ended, and is why it starts no sooner."""
    ended = max((blocker.returns_at for blocker in blockers), default=snapshot.now)
    places = {(seat.node, seat.device) for seat in kept.seats}
    found = [
        window for window in policies.windows
        if ended < window.end <= kept.start and places & {*window.places} and not window.admits(gang.queue, gang.user)
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda window: (window.end, window.name)))


def _newcomer(snapshot: Snapshot, binding: Binding, gang: Gang, ports: tuple[int, ...]) -> Hold:
    returns_at = snapshot.now + timedelta(seconds=gang.seconds)
    return Hold(
        binding.node, binding.device, binding.memory_bytes, binding.compute, returns_at, binding.partition, "",
        gang.job, gang.user, ReturnsBy.NOT_GRANTED, ports,
    )  # fmt: skip


_WITHOUT_TIME = {
    ReturnsBy.OVERDUE: "its lease is over, its processes are being ended",
    ReturnsBy.UNKNOWN: "nobody knows until when",
}


def _by_end(blocker: Hold) -> tuple[object, ...]:
    return (blocker.returns_at, blocker.node, blocker.device, blocker.lease, blocker.partition or ())


def _headline(about: Explanation) -> str:
    match about.state:
        case GangState.FITS:
            where = ", ".join(dict.fromkeys(f"device {b.device} of {b.node}" for b in about.bindings))
            return f"fits now, on {where}, {about.linked}" if about.linked else f"fits now, on {where}"
        case GangState.INCOMPLETE:
            return f"waits until its gang is complete: {about.reasons[0].reason.message}"
        case GangState.NOT_ADMITTED:
            return f"its queue does not admit it: {about.reasons[0].reason.message}"
        case GangState.NEVER:
            return f"no node could ever hold it ({_counts(about)})"
        case GangState.NO_NODE:
            return f"no ready node could hold it ({_counts(about)})"
        case GangState.WAITING:
            if any(blocker.returns_by is ReturnsBy.UNKNOWN for blocker in about.blockers):
                return "waits for memory that is held without a lease: nobody can say until when"
            if about.earliest is None:
                return "waits, too far back in the queue to say until when"
            wait = format_duration((about.earliest - about.now).total_seconds())
            when = f"{utc(about.earliest)} (in {wait})"
            sooner = about.expected is not None and about.expected < about.earliest - timedelta(minutes=1)
            if sooner and about.expected is not None:
                expected = utc(about.expected)
                return f"is expected to start at {expected}, {'at the latest' if about.certain else 'else'} by {when}"
            return f"starts by {when} at the latest" if about.certain else f"is expected to start by {when}"


def _counts(about: Explanation) -> str:
    if not about.reasons:
        return "there are no nodes"
    counts = Counter(reason.reason.code for reason in about.reasons)
    total = f"of {len(about.reasons)} node{'s' if len(about.reasons) != 1 else ''}"
    return f"{total}: " + ", ".join(f"{count} {code}" for code, count in counts.most_common())


def _lines(about: Explanation, limit: int) -> Iterator[str]:
    yield about.headline
    if about.state in (GangState.FITS, GangState.WAITING):
        ahead = f", behind {_some(about.ahead, limit)}" if about.ahead else ""
        yield f"place {about.position} of {about.queue} in the queue{ahead}"
    yield from about.notes
    if about.instead:
        yield f"would start now with {' or '.join(about.instead)}"
    if about.moved:
        yield f"would fit if {about.moved}"
    if about.blockers or about.windows:
        yield "waits for:"
        for blocker in about.blockers[:limit]:
            ends = _WITHOUT_TIME.get(blocker.returns_by, f"until {utc(blocker.returns_at)} at the latest")
            share = f"{format_bytes(blocker.memory_bytes)} and {blocker.compute / 10:g}% of device {blocker.device}"
            if blocker.ports:
                share = f"{words_for_ports(blocker.ports)} and {share}"
            yield f"  {blocker.holder}: {share} of {blocker.node}, {ends}"
        if len(about.blockers) > limit:
            yield f"  and {len(about.blockers) - limit} more"
        for window in about.windows[:limit]:
            yield f"  reservation {window.name}: holds its devices from {utc(window.start)} until {utc(window.end)}"
    if about.reasons and about.state not in (GangState.INCOMPLETE, GangState.NOT_ADMITTED):
        yield "nodes:"
        for reason in about.reasons[:limit]:
            yield f"  {reason.node}: {reason.reason.code}: {reason.reason.message}"
        if len(about.reasons) > limit:
            yield f"  and {len(about.reasons) - limit} more ({_counts(about)})"


def _some(names: tuple[str, ...], limit: int) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
