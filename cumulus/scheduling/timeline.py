"""What is free of one device over time. Every share that is taken comes back at a known time.

Times are whole microseconds from the snapshot's `now`; what is free after the last step stays so for ever.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from datetime import timedelta

ReturningShare = tuple[int, int, int]
"""When a share that is held from now on returns, its bytes, its thousandths of compute."""


MICROSECOND = timedelta(microseconds=1)


def microseconds(seconds: float) -> int:
    """Whole microseconds, rounded up."""
    return math.ceil(seconds * 1_000_000)


class FreeTimeline:
    """A step function: from `times[i]` on, `memory[i]` bytes and `compute[i]` thousandths are free."""

    __slots__ = ("compute", "memory", "times")

    def __init__(self, memory: int, compute: int, taken: Iterable[ReturningShare]) -> None:
        """`memory` and `compute` are the whole device's."""
        ends: dict[int, tuple[int, int]] = {}
        for end, bytes_, millis in taken:
            memory, compute = memory - bytes_, compute - millis
            before = ends.get(end, (0, 0))
            ends[end] = (before[0] + bytes_, before[1] + millis)
        self.times = [0]
        self.memory = [memory]
        self.compute = [compute]
        for end in sorted(ends):
            self.times.append(end)
            self.memory.append(self.memory[-1] + ends[end][0])
            self.compute.append(self.compute[-1] + ends[end][1])

    def free(self, start: int, length: int) -> tuple[int, int]:
        """The most memory and compute that a share from `start` for `length` may take."""
        first = bisect_right(self.times, start) - 1
        last = bisect_left(self.times, start + length, first + 1)
        return min(self.memory[first:last]), min(self.compute[first:last])

    def steps(self, start: int, end: int) -> list[tuple[int, int, int, int]]:
        """From when until when, between these times, how much memory and compute are free."""
        first, last = bisect_right(self.times, start) - 1, bisect_left(self.times, end)
        times = [start, *self.times[first + 1 : last], end]
        return [
            (times[index], times[index + 1], self.memory[first + index], self.compute[first + index])
            for index in range(len(times) - 1)
        ]

    def earliest(self, memory: int, compute: int, length: int) -> int | None:
        """When a share of that size and length can start; None if never."""
        start: int | None = None
        for index, time in enumerate(self.times):
            if self.memory[index] < memory or self.compute[index] < compute:
                if start is not None and time - start >= length:
                    return start
                start = None
            elif start is None:
                start = time
        return start

    def take(self, start: int, length: int, memory: int, compute: int) -> None:
        """Take a share from `start` for `length`."""
        first, last = self._split(start), self._split(start + length)
        for index in range(first, last):
            self.memory[index] -= memory
            self.compute[index] -= compute

    def _split(self, time: int) -> int:
        index = bisect_left(self.times, time)
        if index == len(self.times) or self.times[index] != time:
            self.times.insert(index, time)
            self.memory.insert(index, self.memory[index - 1])
            self.compute.insert(index, self.compute[index - 1])
        return index
