"""`cumulus queue`: who waits, in their order, when each starts, and who holds shares until when."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus.cli import context, options
from cumulus.clock import SystemClock, parse_timestamp, to_the_second
from cumulus.lib.table import Heading, Table
from cumulus.resources.quantity import format_duration

if TYPE_CHECKING:
    from datetime import datetime

    from cumulus.answers.queue import Waiting

Name = Annotated[str, typer.Argument(metavar="QUEUE", show_default=False, help="One queue; if left out, all of them.")]


def queue(name: Name = "", no_headers: options.NoHeaders = False) -> None:
    """Show who waits for a share, in their order, and when each starts; and who holds shares until when.

    EXPECTED is when a job starts if leases end as early as those of the same user and name did before. AT THE LATEST is
    a promise; with a ~ it is when it starts if every lease runs to its end.

    \b
    Examples:
      cumulus queue
      cumulus queue vision
    """
    now = SystemClock().now()
    with context.client() as client:
        found = client.line(name)
    if found.waiting:
        Table(_WAITING, sys.stdout, heading=not no_headers).write([_waiting(w, now) for w in found.waiting])
    else:
        print("Nobody waits.")
    if found.more:
        print(f"and {found.more} more")
    if found.holding:
        print()
        held = [[h.name, h.queue, h.user, h.place, h.share, _in(h.ends, now)] for h in found.holding]
        Table(_HOLDING, sys.stdout, heading=not no_headers).write(held)


_WAITING = (
    Heading("PLACE", "whole"), Heading("JOB", "whole"), Heading("QUEUE", yields=3), Heading("USER", yields=1),
    Heading("SHARE", yields=2), Heading("FOR", "whole", 2), Heading("EXPECTED", "whole"),
    Heading("AT THE LATEST", "wrap"),
)  # fmt: skip
_HOLDING = (
    Heading("HOLDS", "whole"), Heading("QUEUE", yields=3), Heading("USER", yields=1), Heading("WHERE", yields=2),
    Heading("SHARE", yields=2), Heading("UNTIL", "whole"),
)  # fmt: skip


def _waiting(one: Waiting, now: datetime) -> list[str]:
    lasts = format_duration(one.seconds)
    expected = "" if one.reason else _in(one.expected, now)
    return [str(one.place), one.name, one.queue, one.user, one.share, lasts, expected, _latest(one, now)]


def _latest(waiting: Waiting, now: datetime) -> str:
    if waiting.reason:
        return waiting.reason
    found = _in(waiting.latest, now)
    return found if waiting.promised or not found else f"~ {found}"


def _in(moment: str, now: datetime) -> str:
    """2030-01-31T14:10:00Z, in 12m; `now` where it is no second away."""
    if not moment:
        return ""
    left = int((parse_timestamp(moment) - now).total_seconds())
    return f"{to_the_second(moment)}, in {format_duration(left)}" if left > 0 else "now"
