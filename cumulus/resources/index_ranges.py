"""Sets of indexes as text, as Slurm's --array writes them: 0-99, 1,3,5-7, 0-20:5. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

HIGHEST = 999_999
MOST = 100_000
"""Indexes of one set."""

_PART = re.compile(r"(\d{1,6})(?:-(\d{1,6})(?::([1-9]\d{0,5}))?)?")


def parse(text: str) -> frozenset[int]:
    """Raises ValueError, also for more than `MOST`."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part[:40]!r} is no range of indexes; write 0-99, 1,3,5-7 or 0-20:5")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{part[:40]!r} ends before it begins")
        found.update(range(first, last + 1, int(match[3] or 1)))
        if len(found) > MOST:
            raise ValueError(f"has more than {MOST:,} indexes")
    return frozenset(found)


def check(text: str) -> str:
    """Raises ValueError."""
    if not parse(text):
        raise ValueError("names no index; write 0-99")
    return text


def words(indexes: Iterable[int]) -> str:
    """0-4,7"""
    parts: list[list[int]] = []
    for index in sorted(indexes):
        if parts and parts[-1][1] == index - 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
