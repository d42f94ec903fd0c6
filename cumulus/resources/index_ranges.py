"""Sets of indexes as text, as Slurm's --array writes them: 0-99, 1,3,5-7, 0-20:5. Pure."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

HIGHEST = 999_999
MOST = 100_000
"""Indexes of one set."""
MOST_AT_ONCE = 1000
"""Of those whose jobs wait or run."""

_FEW = 8
"""So many times more ranges on the other side are looked up, not gone through."""

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
        few, many = sorted((self, other), key=lambda each: len(each._ranges))
        if len(few._ranges) * _FEW > len(many._ranges):
            # Two sorted runs, which `sorted` merges in one pass.
            return Indexes([*many._ranges, *few._ranges])
        found = many._ranges.copy()
        for first, end in few._ranges:
            at, stop = _between(found, first - 1, end + 1)
            whole = (min(first, found[at][0]), max(end, found[stop - 1][1])) if at < stop else (first, end)
            found[at:stop] = [whole]
        return _as_they_are(found)

    def __sub__(self, other: Indexes) -> Indexes:
        if len(other._ranges) * _FEW > len(self._ranges):
            return _as_they_are([*self._without(other._ranges)])
        found = self._ranges.copy()
        for first, end in other._ranges:
            at, stop = _between(found, first, end)
            if at < stop:
                left = ((found[at][0], first), (end, found[stop - 1][1]))
                found[at:stop] = [each for each in left if each[0] < each[1]]
        return _as_they_are(found)

    def _without(self, others: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """What is left of each range, all of them in one pass."""
        at = 0
        for begins, end in self._ranges:
            first = begins
            while at < len(others) and others[at][0] < end:
                if others[at][1] > first:
                    if first < others[at][0]:
                        yield first, others[at][0]
                    first = others[at][1]
                if others[at][1] > end:
                    break
                at += 1
            if first < end:
                yield first, end

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int):
            return False
        at, stop = _between(self._ranges, index, index + 1)
        return at < stop

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
        begins, ends, steps = match.groups()
        first, step = int(begins), int(steps or 1)
        last = int(ends) if ends else first
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


def _as_they_are(ranges: list[tuple[int, int]]) -> Indexes:
    """Of ranges that are in order and do not touch."""
    found = Indexes()
    found._ranges = ranges
    found._count = sum(end - first for first, end in ranges)
    return found


def _between(ranges: list[tuple[int, int]], first: int, end: int) -> tuple[int, int]:
    """From which to before which of them something lies between first and end."""
    return bisect_right(ranges, first, key=_end), bisect_left(ranges, end, key=_first)


def _first(each: tuple[int, int]) -> int:
    return each[0]


def _end(each: tuple[int, int]) -> int:
    return each[1]
