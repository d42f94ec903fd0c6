"""What a job used of its leases, as small lines that need no script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from cumulus.errors import CumulusError

if TYPE_CHECKING:
    from cumulus.answers.history import UseSeries
    from cumulus.resources.key import Key
    from cumulus.server.http.ui.pages import Visit

MOST = 8
"""Leases that are shown: the newest."""
_HEIGHT, _TOP = 100, 1.2
"""Of the picture, and which part of the lease is at its top: more than all of it is over."""


class Spark(NamedTuple):
    """One figure of one lease. `path`: as SVG has it."""

    where: str
    what: str
    path: str
    width: int
    last: float | None
    highest: float


def of(visit: Visit, key: Key) -> list[Spark]:
    """Those of which anything is known."""
    with suppress(CumulusError):
        leases = visit.service.history.job_use(visit.identity, key)["leases"]
        return [spark for lease in leases[:MOST] for spark in sparks_of(lease)]
    return []


def sparks_of(lease: UseSeries) -> Iterator[Spark]:
    """Its memory and its compute, where they are known."""
    where = f"attempt {lease['attempt']}, replica {lease['replica']}, device {lease['device']} of {lease['node']}"
    for what, values in (("memory", lease["used"]), ("compute", lease["busy"])):
        known = [value for value in values if value is not None]
        if known:
            yield Spark(where, what, path_of(values), max(1, len(values) - 1), values[-1], max(known))


def path_of(values: Sequence[float | None]) -> str:
    """A line from left to right, with a gap where nobody knows."""
    parts, drawing = [], False
    for at, value in enumerate(values):
        if value is not None:
            height = _HEIGHT * (1 - min(value, _TOP) / _TOP)
            parts.append(f"{'L' if drawing else 'M'}{at} {height:.1f}")
            if not drawing:
                # So that one point alone is seen, too.
                parts.append(f"L{at + 0.01:.2f} {height:.1f}")
        drawing = value is not None
    return " ".join(parts)
