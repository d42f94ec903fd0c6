"""Guesses what a person meant by an unknown word. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, candidates: Iterable[str], *, most: int = 1) -> list[str]:
    """The candidates that are `word` but for a slip, the likeliest first: case, '-' and '_', a letter too many, too
    few, wrong or swapped (one for each three letters), or an end too many or too few.

    A wrong suggestion costs more than none, so nothing is suggested that merely has letters in common.
    """
    given = _plain(word)
    if len(given) < 3:
        return []
    found: list[tuple[int, int, str]] = []
    for place, candidate in enumerate(dict.fromkeys(candidates)):
        slips = _slips(given, _plain(candidate))
        if slips is not None:
            found.append((slips, place, candidate))
    return [candidate for _, _, candidate in sorted(found)[:most]]


def _slips(given: str, known: str) -> int | None:
    """How far apart they are, None where that is too far to be a slip."""
    if len(known) < 3:
        return None
    most = max(1, len(given) // 3)
    apart = _distance(given, known, most)
    if apart <= most:
        return apart
    short, long = sorted((given, known), key=len)
    # Kubernetes says more in some names: priorityClassName.
    return most + 1 if len(short) > 3 and long.startswith(short) else None


def _distance(a: str, b: str, most: int) -> int:
    """Letters to insert, delete, change or swap with their neighbour, to make `b` of `a`; above `most` any number."""
    if abs(len(a) - len(b)) > most:
        return most + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                best = min(best, last[j - 2] + 1)
            row.append(best)
    return row[-1]


def _plain(word: str) -> str:
    # No name is that long, and the time goes with the square.
    return word.replace("_", "").replace("-", "").lower()[:80]
