"""Sets of indexes as text, as Slurm's --array writes them: 0-99, 1,3,5-7, 0-20:5. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator

HIGHEST = 999_999
MOST = 100_000
"""Indexes of one set."""
MOST_AT_ONCE = 1000
"""Of those whose jobs wait or run."""

_PART = re.compile(r"(\d{1,6})(?:-(\d{1,6})(?::([1-9]\d{0,5}))?)?")


class Indexes:
    """A set of indexes, kept as the ranges that it is made of: 0-99999 costs no more than 0-9. It never changes."""

    __slots__ = ("_count", "_ranges")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """`ranges`: each with its first index and the one after its last, in any order; they may overlap."""
        merged: list[tuple[int, int]] = []
        for first, end in sorted(ranges):
            if merged and first <= merged[-1][1]:
                if end > merged[-1][1]:
                    merged[-1] = (merged[-1][0], end)
            else:
                merged.append((first, end))
        self._ranges = merged
        self._count = sum(end - first for first, end in merged)

    @classmethod
    def of(cls, indexes: Iterable[int]) -> Indexes:
        return cls((index, index + 1) for index in indexes)

    def __or__(self, other: Indexes) -> Indexes:
        # Two sorted runs, which `sorted` merges in one pass.
        return Indexes([*self._ranges, *other._ranges])

    def __sub__(self, other: Indexes) -> Indexes:
        left: list[tuple[int, int]] = []
        taken, at = other._ranges, 0
        for begins, end in self._ranges:
            first = begins
            while at < len(taken) and taken[at][1] <= first:
                at += 1
            step = at
            while step < len(taken) and taken[step][0] < end:
                if first < taken[step][0]:
                    left.append((first, taken[step][0]))
                first = taken[step][1]
                step += 1
            at = max(at, step - 1)
            if first < end:
                left.append((first, end))
        return Indexes(left)

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int):
            return False
        at = bisect_right(self._ranges, index, key=_first) - 1
        return at >= 0 and index < self._ranges[at][1]

    def __iter__(self) -> Iterator[int]:
        """From the lowest on."""
        for first, end in self._ranges:
            yield from range(first, end)

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Indexes) and self._ranges == other._ranges

    def __hash__(self) -> int:
        return hash(tuple(self._ranges))

    def __str__(self) -> str:
        """0-4,7"""
        return ",".join(str(first) if end == first + 1 else f"{first}-{end - 1}" for first, end in self._ranges)


def parse(text: str) -> Indexes:
    """Raises ValueError, also for more than `MOST`."""
    ranges: list[tuple[int, int]] = []
    single: set[int] = set()
    for part in text.split(",") if text else ():
        match = _PART.fullmatch(part.strip())
        if match is None:
            at_once = "; how many at once is said by parallelism" if "%" in part else ""
            raise ValueError(f"{part[:40]!r} is no range of indexes; write 0-99, 1,3,5-7 or 0-20:5{at_once}")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if last < first:
            raise ValueError(f"{part[:40]!r} ends before it begins")
        if step == 1:
            ranges.append((first, last + 1))
        else:
            single.update(range(first, last + 1, step))
            if len(single) > MOST:
                break
    found = Indexes([*ranges, *((index, index + 1) for index in single)])
    if len(found) > MOST:
        raise ValueError(f"has more than {MOST:,} indexes")
    return found


def check(text: str) -> str:
    """Raises ValueError."""
    if not parse(text):
        raise ValueError("names no index; write 0-99")
    return text


def _first(each: tuple[int, int]) -> int:
    return each[0]
