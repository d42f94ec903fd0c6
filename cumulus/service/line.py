"""Who waits, in their order, with when each starts; and who holds shares until when. Everybody may ask: it tells names,
users, shares and ends, and nothing else of others.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from cumulus.answers.queue import Holding, Line, Waiting
from cumulus.clock import timestamp
from cumulus.resources.quantity import format_bytes
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.scheduling.claim import Demand
from cumulus.scheduling.cycle import Cycle
from cumulus.scheduling.forecast import expected_starts
from cumulus.scheduling.policy import Policies
from cumulus.scheduling.snapshot import Gang, Hold, Snapshot

MOST = 100
"""Who are listed of those that wait: the first ones. Of who asks, so many more."""


def line(snapshot: Snapshot, policies: Policies, queue: str, *, asks: str, ids: bool) -> Line:
    """The line of one queue, or of all where it is "". `asks`: the user who asks. `ids`: whether leases made on a node
    are named."""
    cycle = Cycle(snapshot, policies)
    expected = expected_starts(snapshot, policies)
    waiting: list[Waiting] = []
    more = 0
    for place, gang in enumerate(cycle.queue, 1):
        starts: datetime | None = snapshot.now
        reason = ""
        if not cycle.bind(gang):
            refusal = cycle.refuse(gang)
            if refusal.not_admitted is not None or refusal.hopeless:
                reason = refusal.reason.message
            starts = None if refusal.reservation is None else refusal.reservation.start
        if queue not in ("", _queue(gang, policies)):
            continue
        if len(waiting) >= (2 * MOST if gang.user == asks else MOST):
            more += 1
            continue
        latest = gang.promised or starts
        waiting.append(
            Waiting(
                place, _queue(gang, policies), gang.job or gang.name, gang.user, _share(gang), gang.seconds,
                _time(_earlier(expected.get(gang.name), latest)), _time(latest), gang.promised is not None, reason,
            )
        )  # fmt: skip
    holding = [_holding(hold, ids=ids) for hold in sorted(snapshot.holds, key=lambda hold: hold.returns_at)]
    return Line(tuple(waiting), more, tuple(held for held in holding if queue in ("", held.queue)))


def _queue(gang: Gang, policies: Policies) -> str:
    return (gang.queue or DEFAULT_QUEUE) if policies.promises else ""


def _holding(hold: Hold, *, ids: bool) -> Holding:
    name = hold.job or ("" if hold.partition is None else f"{hold.partition.namespace}/{hold.partition.name}")
    return Holding(
        hold.queue, name or (hold.lease if ids else "a lease made on the node"), hold.user,
        f"{hold.node}, device {hold.device}", f"{format_bytes(hold.memory_bytes)}, {hold.compute / 10:g}%",
        timestamp(hold.returns_at),
    )  # fmt: skip


def _share(gang: Gang) -> str:
    counts = Counter(_words(member.demand) for member in gang.members)
    return ", ".join(f"{count}x {words}" if count > 1 else words for words, count in counts.items())


def _words(demand: Demand) -> str:
    share = demand.memory
    if share.size is not None:
        return format_bytes(share.size)
    return f"{float((share.fraction or 0) * 100):g}%"


def _earlier(expected: datetime | None, latest: datetime | None) -> datetime | None:
    """What is expected: no later than what is certain."""
    return latest if expected is not None and latest is not None and latest < expected else expected


def _time(moment: datetime | None) -> str:
    return "" if moment is None else timestamp(moment)
