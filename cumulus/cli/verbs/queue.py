"""`cumulus queue`: who waits, in their order, when each starts, and who holds shares until when."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cumulus.cli import context, options
from cumulus.clock import SystemClock, parse_timestamp, to_the_second
from cumulus.lib import printable, safe_output
from cumulus.lib.table import Heading, Table, fits
from cumulus.resources.quantity import format_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from cumulus.answers.queue import Waiting

Name = Annotated[str, typer.Argument(metavar="QUEUE", show_default=False, help="One queue; if left out, all of them.")]


def queue(name: Name = "", no_headers: options.NoHeaders = False) -> None:
    """Show who waits for a share, in their order, and when each starts; and who holds shares until when.

    EXPECTED is when a job starts if leases end as early as those of the same user and name did before. AT THE LATEST is
    a promise; with a ~ it is when it starts if every lease runs to its end. Why a job cannot start is said below,
    under its number.

    \b
    Examples:
      cumulus queue
      cumulus queue vision
    """
    now = SystemClock().now()
    room = safe_output.width(sys.stdout)
    with context.client() as client:
        found = client.line(name)
    if found.waiting:
        reasons = {
            why: number for number, why in enumerate(dict.fromkeys(w.reason for w in found.waiting if w.reason), 1)
        }
        soon = room is not None and room < _ROOMY
        rows = [_waiting(w, now, reasons, soon=soon) for w in found.waiting]
        _table(_WAITING, rows, room, no_headers)
        for reason, number in reasons.items():
            safe_output.paragraph(sys.stdout, f"({number}) {reason}")
    else:
        print("Nobody waits.")
    if found.more:
        print(f"and {found.more} more")
    if found.holding:
        print()
        held = [[h.name, h.queue, h.user, h.place, h.share, _in(h.ends, now)] for h in found.holding]
        _table(_HOLDING, held, room, no_headers)


def _table(headings: Sequence[Heading], rows: Sequence[list[str]], room: int | None, no_headers: bool) -> None:
    """Where a long name and a time have no room beside each other, how long it is until then is enough; and where even
    that does not fit, the name goes on in the next line."""
    shown = tuple(headings)
    if room is not None and not _fits(headings, rows, room):
        rows = [[*row[:-1], _how_long(row[-1])] for row in rows]
        if not _fits(headings, rows, room):
            shown = tuple(replace(h, fit="wrap") if h.title in ("JOB", "HOLDS") else h for h in headings)
    Table(shown, sys.stdout, heading=not no_headers).write(rows)


def _fits(headings: Sequence[Heading], rows: Sequence[list[str]], room: int) -> bool:
    """Whether there is room for the columns that are never left out."""
    kept = [index for index, heading in enumerate(headings) if not heading.yields]
    widths = [max(printable.cells(text) for text in (headings[i].title, *(row[i] for row in rows))) for i in kept]
    return fits([headings[i] for i in kept], widths, room)


def _how_long(time: str) -> str:
    """`~ in 12m` of `~ 2030-01-31T14:10:00Z, in 12m`."""
    moment, comma, left = time.rpartition(", ")
    return f"{'~ ' if moment.startswith('~') else ''}{left}" if comma else time


_ROOMY = 120
"""On a terminal of fewer columns, what is only expected is told by how long that is from now: then there is room for
who waits, and for what."""
_WAITING = (
    Heading("PLACE", "whole"), Heading("JOB", "whole"), Heading("QUEUE", yields=3), Heading("USER", yields=1),
    Heading("SHARE", yields=2), Heading("FOR", "whole", 2), Heading("EXPECTED", "whole", 1),
    Heading("AT THE LATEST", "whole"),
)  # fmt: skip
_HOLDING = (
    Heading("HOLDS", "whole"), Heading("QUEUE", yields=3), Heading("USER", yields=1), Heading("WHERE", yields=2),
    Heading("SHARE", yields=2), Heading("UNTIL", "whole"),
)  # fmt: skip


def _waiting(one: Waiting, now: datetime, reasons: Mapping[str, int], *, soon: bool) -> list[str]:
    """`soon`: expected is said by how long that is from now alone."""
    expected = "" if one.reason else _in(one.expected, now)
    if soon:
        expected = expected.rpartition(", ")[2]
    latest = f"cannot start ({reasons[one.reason]})" if one.reason else _latest(one, now)
    return [str(one.place), one.name, one.queue, one.user, one.share, format_duration(one.seconds), expected, latest]


def _latest(waiting: Waiting, now: datetime) -> str:
    found = _in(waiting.latest, now)
    return found if waiting.promised or not found else f"~ {found}"


def _in(moment: str, now: datetime) -> str:
    """2030-01-31T14:10:00Z, in 12m; `now` where it is no second away."""
    if not moment:
        return ""
    left = int((parse_timestamp(moment) - now).total_seconds())
    return f"{to_the_second(moment)}, in {format_duration(left)}" if left > 0 else "now"
