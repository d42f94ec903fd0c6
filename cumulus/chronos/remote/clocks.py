"""The node's times on this machine's clock.

A node's clock may be wrong, and may be set while leases live. How far it is off is told from its `now` between our
send and receive times (as NTP does, RFC 5905); when a lease ends is told from the seconds it has left, which the
node counts on a monotonic clock. What was once told stays as it is until an answer contradicts it: times in status
must not flicker with the length of the way.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from datetime import datetime, timedelta

from cumulus.chronos.lease import Lease, LeaseState
from cumulus.clock import parse_timestamp, timestamp

_REMEMBERED = 50_000
_ROUNDING = timedelta(milliseconds=1)


class NodeClock:
    """One node's clock as seen from here. Safe for use by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._skew: float | None = None
        self._bounds = (0.0, 0.0)
        self._leases: OrderedDict[str, tuple[datetime, datetime]] = OrderedDict()

    @property
    def skew(self) -> float | None:
        """Seconds by which the node's clock is ahead of ours, None before it was measured."""
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
                self._skew = (low + high) / 2

    def on_ours(self, lease: Lease, sent: datetime, received: datetime) -> Lease:
        """`lease` with its times on our clock. A live lease never seems to end before it does."""
        skew = timedelta(seconds=self._skew or 0.0)
        granted, ends = parse_timestamp(lease.granted_at) - skew, parse_timestamp(lease.expires_at) - skew
        with self._lock:
            known = self._leases.pop(lease.id, None)
            if known is not None:
                granted = known[0]
            if lease.state is LeaseState.ENDED:
                ends = known[1] if known is not None else ends
            else:
                ends = _end(lease, ends if known is None else known[1], ends, sent, received)
                self._leases[lease.id] = granted, ends
                if len(self._leases) > _REMEMBERED:
                    self._leases.popitem(last=False)
        ended_at = timestamp(parse_timestamp(lease.ended_at) - skew) if lease.ended_at else ""
        return replace(lease, granted_at=timestamp(granted), expires_at=timestamp(ends), ended_at=ended_at)


def _end(lease: Lease, known: datetime, told: datetime, sent: datetime, received: datetime) -> datetime:
    """What was said before where it can still be right, else what the node's wall clock says, else the latest."""
    left = timedelta(seconds=lease.expires_in)
    earliest, latest = sent + left - _ROUNDING, received + left + _ROUNDING
    return next((end for end in (known, told) if earliest <= end <= latest), received + left)
