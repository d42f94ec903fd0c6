"""Judges who holds more of a device than was leased, from one look after the other. Pure: time is passed in.

A look says what each process holds (`device_processes`) and whose it is (`process_owners`); the monitor acts on the
verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

LOOK_SECONDS = 0.25
"""How often the driver is asked while leases are live on a device."""

CONFIRM_SECONDS = 0.5
"""For so long, in a row, a lease must be over before anything follows: memory that is given back and taken anew within
a moment may be counted twice."""

GAP_SECONDS = 2.0
"""Looks that are further apart are not in a row."""

ALLOWANCE_BYTES = 512 * 2**20
"""For each process of the lease on the device: a CUDA context, its kernels and workspaces are in the driver's figure,
and no program can give them back."""

MOST_ALLOWED_BYTES, MOST_ALLOWED_PART = 2 * 2**30, 10
"""The allowance of all its processes together is at most the larger of so many bytes and so manieth of the lease."""


@dataclass(frozen=True, slots=True)
class MeasuredHolding:
    """What the processes of one lease hold of its device, and on devices of which their job leases nothing."""

    leased_bytes: int
    held_bytes: int = 0
    processes: int = 0
    elsewhere_bytes: int = 0

    @property
    def allowance(self) -> int:
        most = max(MOST_ALLOWED_BYTES, self.leased_bytes // MOST_ALLOWED_PART)
        return min(ALLOWANCE_BYTES * max(1, self.processes), most)

    @property
    def over(self) -> bool:
        return self.held_bytes > self.leased_bytes + self.allowance or self.elsewhere_bytes > self.allowance

    @property
    def shown_bytes(self) -> int:
        """What is told of it, where it is over: always more than it leased."""
        return max(self.held_bytes + self.elsewhere_bytes, self.leased_bytes + 1)


@dataclass(slots=True)
class Judge:
    """Remembers since when each lease is over."""

    _since: dict[str, float] = field(default_factory=dict)
    _last: float = float("-inf")

    def look(self, holdings: Mapping[str, MeasuredHolding], now: float) -> dict[str, int]:
        """The leases that have been over for long enough, with what they hold. `holdings` are all live leases on the
        devices that were looked at; a lease that is not among them is forgotten."""
        if now - self._last > GAP_SECONDS:
            self._since.clear()
        self._last = now
        over = {id for id, holding in holdings.items() if holding.over}
        self._since = {id: self._since.get(id, now) for id in over}
        # What a clock adds up to is not exact.
        return {
            id: holdings[id].shown_bytes for id, since in self._since.items() if now - since >= CONFIRM_SECONDS - 1e-6
        }


def by_lease(holders: Iterable[tuple[int, Sequence[str]]], leased: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Bytes and processes by lease, from what each process holds and the leases that it runs in. One that runs in
    several leases of the device may hold all of them: it fills one after another."""
    found: dict[str, tuple[int, int]] = {}
    for size, leases in sorted(holders, key=lambda holder: len(holder[1])):
        left = size
        for number, lease in enumerate(leases, start=1):
            bytes_, count = found.get(lease, (0, 0))
            room = max(0, leased.get(lease, 0) - bytes_)
            took = left if number == len(leases) else min(left, room)
            left -= took
            found[lease] = bytes_ + took, count + 1
    return found


def by_total(leased: Mapping[str, int], used_bytes: int) -> dict[str, MeasuredHolding]:
    """Holdings of a device's leases where the driver tells the device's total alone. Who exceeds the sum is known only
    where one lease has it to itself: else none is judged."""
    if len(leased) == 1:
        return {id: MeasuredHolding(size, used_bytes, 1) for id, size in leased.items()}
    return {id: MeasuredHolding(size) for id, size in leased.items()}
