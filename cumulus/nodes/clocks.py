"""The node's times on this machine's clock.

A node's clock may be wrong, and may be set while leases live. How far it is off is told from its `now` between our
send and receive times (as NTP does, RFC 5905); when a lease ends is told from the seconds it has left, which the
node counts on a monotonic clock. What was once told stays as it is until an answer contradicts it: times in status
must not flicker with the length of the way.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cumulus.chronos.contract import Lease, LeaseState
from cumulus.clock import parse_timestamp, timestamp

_REMEMBERED = 50_000
_ROUNDING = timedelta(milliseconds=1)


class NodeClock:
    """One node's clock as seen from here. Safe for use by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._skew: float | None = None
        self._bounds = (0.0, 0.0)
        self._leases: OrderedDict[str, _Times] = OrderedDict()

    @property
    def skew(self) -> float | None:
        """Seconds by which the node's clock is ahead of ours, 0 where the way alone may explain what was measured; None
        before it was measured."""
        return self._skew

    def measure(self, theirs: datetime, sent: datetime, received: datetime) -> None:
        """Learn from the node's `now`, read somewhere between `sent` and `received` on our clock."""
        low, high = (theirs - received).total_seconds(), (theirs - sent).total_seconds()
        with self._lock:
            if self._skew is not None:
                # Each answer narrows it down, until one shows that a clock was set or has drifted.
                narrowed = max(low, self._bounds[0]), min(high, self._bounds[1])
                low, high = narrowed if narrowed[0] <= narrowed[1] else (low, high)
            self._bounds = low, high
            if self._skew is None or not low <= self._skew <= high:
                self._skew = 0.0 if low <= 0.0 <= high else (low + high) / 2

    def on_ours(self, lease: Lease, sent: datetime, received: datetime) -> Lease:
        """`lease` with its times on our clock."""
        skew = timedelta(seconds=self._skew or 0.0)
        told = _Times(parse_timestamp(lease.granted_at) - skew, parse_timestamp(lease.expires_at) - skew)
        with self._lock:
            times = self._leases.pop(lease.id, told)
            if lease.state is not LeaseState.ENDED:
                left = timedelta(seconds=lease.expires_in)
                times = times.narrowed(sent + left, received + left, told.ends)
                self._leases[lease.id] = times
                if len(self._leases) > _REMEMBERED:
                    self._leases.popitem(last=False)
        ended_at, parked_at = (
            timestamp(parse_timestamp(text) - skew) if text else "" for text in (lease.ended_at, lease.parked_at)
        )
        return replace(
            lease, granted_at=timestamp(times.granted), expires_at=timestamp(times.ends), ended_at=ended_at,
            parked_at=parked_at,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Times:
    """What was told of a lease, and between which moments it ends for all that is known."""

    granted: datetime
    ends: datetime
    earliest: datetime | None = None
    latest: datetime | None = None

    def narrowed(self, earliest: datetime, latest: datetime, told: datetime) -> _Times:
        """With what one more answer says. The end stays where it can; else it is as the node's wall clock `told`, if
        that can be, and else the latest that it can be: a lease must not be thought over while it lives."""
        earliest, latest = earliest - _ROUNDING, latest + _ROUNDING
        if self.earliest is not None and self.latest is not None:
            both = max(earliest, self.earliest), min(latest, self.latest)
            if both[0] <= both[1]:
                earliest, latest = both
        ends = next((end for end in (self.ends, told) if earliest <= end <= latest), latest)
        return _Times(self.granted, ends, earliest, latest)
