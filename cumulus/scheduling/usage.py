"""What is counted for shares that were held, and how it fades. Pure arithmetic; times are those of the store's objects.

A share counts as the larger of its parts of memory and compute, in devices: 25 % of the memory and half of the compute
held for an hour are half a device-hour. Whoever gives a lease back early pays what was held. What was used fades with
a half-life: after it, half counts.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from typing import NamedTuple

from cumulus.resources.device import FULL_COMPUTE
from cumulus.resources.key import NAME_LETTERS
from cumulus.resources.queue_usage import REMEMBERED_NAMES, Ending, QueueUsageStatus

_LATEST = 0.25
"""How much the last lease of a name counts in how early its leases end."""


_RANDOM = re.compile(rf"-(?:[{NAME_LETTERS}]{{5}}|[0-9a-f]{{10}})$")


def plain_name(job: str) -> str:
    """The name in a job's name or namespace/name, without the random letters that `cumulus run` and the SDK add."""
    return _RANDOM.sub("", job.rpartition("/")[2])


class PastLease(NamedTuple):
    """A lease that has ended."""

    share: int
    """Thousandths of a device."""
    seconds: float
    """How long it was held."""
    leased: float
    """How long it could have been held."""
    name: str
    """Of its job, without random letters; "" for none."""


def held_seconds(granted: datetime, ended: datetime, longest: float) -> float:
    """How long a lease was held, from the clocks on the wall: whatever they were set to meanwhile, never less than
    nothing and never more than the lease could last."""
    return min(max(0.0, (ended - granted).total_seconds()), longest)


def faded(amount: float, since: datetime | None, now: datetime, half_life: float) -> float:
    """What still counts at `now` of what counted so much at `since`. A clock that was set back lets nothing grow."""
    if since is None or amount == 0:
        return amount
    return amount * math.exp2(-max(0.0, (now - since).total_seconds()) / half_life)


def counted(share: int, seconds: float, half_life: float) -> float:
    """Device-seconds that count at the end of a lease, of which the first ones fade already."""
    fading = rate(half_life)
    return share / FULL_COMPUTE * -math.expm1(-seconds * fading) / fading


def rate(half_life: float) -> float:
    """How fast use fades, as a part of it for each second."""
    return math.log(2) / half_life


def with_ended(status: QueueUsageStatus, lease: PastLease, now: datetime, half_life: float) -> QueueUsageStatus:
    """The usage with one more lease that has ended, at `now`."""
    at = datetime.fromisoformat(status.at) if status.at else None
    amount = faded(status.decayed, at, now, half_life) + counted(lease.share, lease.seconds, half_life)
    held = lease.share * round(lease.seconds * 1_000_000) // FULL_COMPUTE
    endings = status.endings
    if lease.leased > 0:
        part = min(1.0, lease.seconds / lease.leased)
        for name in dict.fromkeys(("", lease.name)):
            endings = _with_ending(endings, name, part)
    return QueueUsageStatus(
        leases=status.leases + 1, device_microseconds=status.device_microseconds + held, decayed=amount,
        at=now.isoformat(), endings=endings,
    )  # fmt: skip


def _with_ending(endings: tuple[Ending, ...], name: str, part: float) -> tuple[Ending, ...]:
    old = next((ending for ending in endings if ending.name == name), None)
    if old is None:
        new = Ending(name=name, leases=1, part=part)
    else:
        weight = max(_LATEST, 1 / (old.leases + 1))
        new = Ending(name=name, leases=old.leases + 1, part=old.part + (part - old.part) * weight)
    rest = [ending for ending in endings if ending.name not in ("", name)]
    of_all = [ending for ending in endings if ending.name == "" and name != ""]
    return (*of_all, new, *rest)[:REMEMBERED_NAMES]


def expected_part(status: QueueUsageStatus, name: str) -> float | None:
    """The part of its lease that a job of that name is expected to hold; None where nothing was measured."""
    known = {ending.name: ending.part for ending in status.endings}
    return known.get(name, known.get(""))


def expected_end(start: datetime, end: datetime, now: datetime, part: float) -> datetime:
    """When a lease that lasts from `start` to `end` at most is expected to be given back; never in the past."""
    expected = start + timedelta(seconds=(end - start).total_seconds() * part)
    # What held on for longer than usual is expected to do so for as long as it was expected to last before.
    return min(end, max(expected, now + (now - start) * 0.1))
