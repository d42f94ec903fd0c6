"""The policies of a cluster with queues, and the first of them: who goes first by what was used before.

Order: the rest of a gang that is bound in part; urgent bands; whoever has a promise, by its time; then band, quota,
use by weight down the tree, age.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import attrgetter

from cumulus.resources.device import FULL_COMPUTE, counted_share
from cumulus.resources.queue_names import DEFAULT_QUEUE
from cumulus.scheduling import fit
from cumulus.scheduling.limits import QueueLimits
from cumulus.scheduling.policy import Both, Policies
from cumulus.scheduling.queues import Book
from cumulus.scheduling.quota import TakeBackQuota
from cumulus.scheduling.snapshot import Gang, Snapshot

PROMISES = 64
"""Jobs that hold a promise at once, at most: each is looked at first in every cycle."""

_NEVER = datetime.max.replace(tzinfo=UTC)


def with_queues(policies: Policies, book: Book) -> Policies:
    """The policies of a server that has queues; the same ones where there is none."""
    if not book.tree:
        return policies
    admission = Both(policies.admission, QueueLimits(book))
    return replace(
        policies, order=FairOrder(book), admission=admission, preemption=TakeBackQuota(book), promises=PROMISES,
        lasts=book.lasts, note=book.note,
    )  # fmt: skip


@dataclass(frozen=True)
class FairOrder:
    """Who used less goes first."""

    book: Book

    def arrange(self, snapshot: Snapshot) -> Sequence[Gang]:
        # There may be ten thousand: each has an index of its rank and a figure, and no tuple that is compared.
        pending = sorted(snapshot.pending, key=_NAME)
        pending.sort(key=_SINCE)
        ranks, rank_of, used_of = self._placed(pending, snapshot)
        order = sorted(range(len(pending)), key=used_of.__getitem__)
        _sort_by_rank(order, ranks, rank_of)
        if self.book.tree.has_quotas:
            self._put_within_quota_first(pending, order, ranks, rank_of, snapshot)
            _sort_by_rank(order, ranks, rank_of)
        return [pending[index] for index in order]

    def _placed(self, pending: Sequence[Gang], snapshot: Snapshot) -> tuple[list[_Rank], list[int], list[float]]:
        """Ranks, and for each gang, by age, the index of its own and the use of its user by then."""
        standings, tree = self.book.standings(snapshot), self.book.tree
        whole, largest = standings.whole, _largest(snapshot)
        ranks: list[_Rank] = []
        rank_of: list[int] = []
        used_of: list[float] = []
        groups: dict[tuple[str, str, int], _Group] = {}
        shares: dict[int, float] = {}
        for gang in pending:
            group = groups.get((gang.queue, gang.user, gang.priority))
            if group is None:
                queue = gang.queue or DEFAULT_QUEUE
                band, urgent = tree.rules(queue).band(gang.priority)
                *of_queues, used = standings.ratios(queue, gang.user)
                group = groups[gang.queue, gang.user, gang.priority] = _Group(len(ranks), used, urgent)
                ranks.append((1 if urgent else 2, _NEVER, -band, True, tuple(of_queues)))
            rank = group.rank
            if gang.started:
                rank = len(ranks)
                ranks.append((0, *ranks[group.rank][1:]))
            elif gang.promised is not None and not group.urgent:
                rank = len(ranks)
                ranks.append((2, gang.promised, *ranks[group.rank][2:]))
            rank_of.append(rank)
            used_of.append(group.used)
            demand = gang.members[0].demand
            share = shares.get(id(demand))
            if share is None:
                thousandths = counted_share(*fit.share_of(demand, largest), largest)
                share = shares[id(demand)] = thousandths / FULL_COMPUTE / whole
            # A user's next job stands as if this one had its lease: two users with many jobs take turns.
            group.used += share * len(gang.members) * gang.seconds
        return ranks, rank_of, used_of

    def _put_within_quota_first(
        self, pending: Sequence[Gang], order: Sequence[int], ranks: list[_Rank], rank_of: list[int], snapshot: Snapshot
    ) -> None:
        """Give those a rank first in their band that fit into what their queue is sure of and does not hold yet."""
        standings, largest = self.book.standings(snapshot), _largest(snapshot)
        rooms: dict[str, _Room] = {}
        of_queue: dict[str, _Room | None] = {}
        within: dict[int, int] = {}
        shares: dict[int, int] = {}
        for index in order:
            gang = pending[index]
            queue = gang.queue
            if queue not in of_queue:
                rules = standings.tree.owner(queue or DEFAULT_QUEUE)
                if rules is not None and rules.name not in rooms:
                    held = standings.queue(rules.name).held
                    rooms[rules.name] = _Room(sum(max(0, cap.thousandths - cap.of(held)) for cap in rules.quota))
                of_queue[queue] = None if rules is None else rooms[rules.name]
            room = of_queue[queue]
            if room is None or room.left <= 0:
                # Everything counts a thousandth at least.
                continue
            share = 0
            for member in gang.members:
                demand = member.demand
                if id(demand) not in shares:
                    shares[id(demand)] = counted_share(*fit.share_of(demand, largest), largest)
                share += shares[id(demand)]
            if share <= room.left:
                room.left -= share
                old = rank_of[index]
                if old not in within:
                    within[old] = len(ranks)
                    ranks.append((*ranks[old][:3], False, ranks[old][4]))
                rank_of[index] = within[old]


_Rank = tuple[int, datetime, int, bool, tuple[float, ...]]
"""What decides first: started or urgent, the promise, the band, whether beyond quota, use of the queues by weight."""
_NAME, _SINCE = attrgetter("name"), attrgetter("since")


@dataclass(slots=True)
class _Room:
    """What a queue is sure of and nobody has yet."""

    left: int


@dataclass(slots=True)
class _Group:
    """The jobs of one user in one queue, of one priority."""

    rank: int
    used: float
    """Of its user, with what waits before the next job."""
    urgent: bool


def _sort_by_rank(order: list[int], ranks: Sequence[_Rank], rank_of: Sequence[int]) -> None:
    """Gangs of one rank stay in the order that they have."""
    numbers = {rank: number for number, rank in enumerate(sorted(set(ranks)))}
    number_of = [numbers[rank] for rank in ranks]
    keys = [number_of[rank] for rank in rank_of]
    order.sort(key=keys.__getitem__)


def _largest(snapshot: Snapshot) -> int:
    """The memory of the largest device."""
    return max((device.memory_bytes for node in snapshot.nodes for device in node.devices), default=1)
