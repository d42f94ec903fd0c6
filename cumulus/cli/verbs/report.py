"""`cumulus report`: what users, queues or nodes held and used in a time, and which promises were kept."""

from __future__ import annotations

import csv
import io
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cumulus.answers.history import BY, LeaseRow
from cumulus.cli import completion, context, options, terminal
from cumulus.clock import SystemClock
from cumulus.errors import UsageError
from cumulus.lib import safe_output
from cumulus.lib.table import Heading, Table
from cumulus.resources.columns import NOTHING
from cumulus.resources.quantity import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cumulus.answers.history import By, Report, ReportRow
    from cumulus.client.base import Client

_NOT_WHOLE = "this is what is of the namespaces that you may read"
_FORMS = ("table", "json", "jsonl", "csv")
_FORMULA = "=+-@\t\r"
"""What a spreadsheet takes for the beginning of a formula."""


def report(
    since: Annotated[
        str, typer.Option("--since", metavar="TIME", help="From when on: 30d ago, or a date such as 2030-01-31.")
    ] = "30d",
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", show_default=False, help="Until when; if left out, now.")
    ] = "",
    by: Annotated[
        str,
        typer.Option(
            "--by", metavar="user|queue|node", help="Whose.", show_default="user",
            autocompletion=completion.one_of(*BY),
        ),
    ] = "",
    leases: Annotated[
        bool, typer.Option("--leases", help="Not their sums: each lease, in the order in which they began.")
    ] = False,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FORM", help="table, json, jsonl or csv.",
            autocompletion=completion.one_of(*_FORMS),
        ),
    ] = "table",
    no_headers: options.NoHeaders = False,
) -> None:  # fmt: skip
    """Show what was held, used and idle, in GPU-hours, and which promised starts were kept.

    A share counts as its part of a device: half a GPU for two hours is one GPU-hour. USED is the part in which its
    compute was busy, IDLE the rest, and UNKNOWN what was held of devices that tell no use. You see what is of the
    namespaces that you may read.

    \b
    Examples:
      cumulus report
      cumulus report --since 7d --by queue
      cumulus report --since 2030-01-01 --until 2030-02-01 -o csv > january.csv
      cumulus report --by node -o jsonl
      cumulus report --leases --since 7d -o csv > leases.csv
    """
    if leases and by:
        raise UsageError("--leases adds nothing up", hint="leave out --leases or --by")
    by = by or "user"
    if by not in BY:
        raise UsageError(f"there is no report by {by!r}", hint=f"it is {', '.join(BY)}")
    if output not in _FORMS:
        raise UsageError(f"there is no output format {output!r} here", hint=f"the formats are {', '.join(_FORMS)}")
    first, last = _moment(since, "--since"), _moment(until, "--until") if until else 0
    now = round(SystemClock().now().timestamp() * 1000)
    if not first < min(last or now, now):
        raise UsageError(
            f"--since {since} is not before {f'--until {until}' if last and last < now else 'now'}",
            hint="both are a time ago, such as 7d, or a date, such as 2030-01-31, which is 0:00 UTC",
        )
    if leases:
        with context.client() as client:
            _show_leases(_leases(client, first, last, told=output == "table"), output, headers=not no_headers)
        return
    with context.client() as client:
        found = client.report(first, until=last, by=cast("By", by))
    if not found["whole"] and output == "table":
        terminal.note(_NOT_WHOLE)
    _show(found, output, headers=not no_headers)


def _moment(text: str, option: str) -> int:
    """Milliseconds since 1970 of so long ago, or of a date."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        try:
            found = SystemClock().now() - timedelta(seconds=options.seconds_of(text, option))
        except UsageError as error:
            raise UsageError(
                f"{error}, or a date", hint="as in 7d for seven days ago, 2030-01-31, or 2030-01-31T12:00+01:00"
            ) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return max(0, round(found.timestamp() * 1000))


def _show(found: Report, output: str, *, headers: bool) -> None:
    if output == "json":
        from cumulus.cli import printers

        safe_output.block(sys.stdout, printers.to_json(cast("dict[str, object]", found)) + "\n")
    elif output == "jsonl":
        safe_output.block(sys.stdout, "".join(json.dumps(row) + "\n" for row in found["rows"]))
    elif output == "csv":
        _write_csv(found["rows"], found["total"], headers=headers)
    else:
        rows = [_row(row, row["name"] or NOTHING) for row in found["rows"]]
        if len(rows) > 1:
            rows.append(_row(found["total"], "TOTAL"))
        Table(_headings(found["total"]["by"]), sys.stdout, heading=headers).write(rows)


def _leases(client: Client, first: int, last: int, *, told: bool) -> Iterator[list[LeaseRow]]:
    after: int | None = 0
    while after is not None:
        found = client.lease_rows(first, until=last, after=after)
        if told and not found["whole"]:
            terminal.note(_NOT_WHOLE)
            told = False
        yield found["rows"]
        after = found["next"]


def _show_leases(batches: Iterable[list[LeaseRow]], output: str, *, headers: bool) -> None:
    """As they come: there may be a hundred thousand."""
    if output == "json":
        from cumulus.cli import printers

        rows = [row for batch in batches for row in batch]
        safe_output.block(sys.stdout, printers.to_json(cast("dict[str, object]", {"rows": rows})) + "\n")
        return
    table = Table(_LEASE_HEADINGS, sys.stdout, heading=headers)
    for batch in batches:
        if output == "jsonl":
            safe_output.block(sys.stdout, "".join(json.dumps(row) + "\n" for row in batch))
        elif output == "csv":
            _write_csv(batch, LeaseRow.__annotations__, headers=headers)
            headers = False
        else:
            table.write([_lease(row) for row in batch])


_LEASE_HEADINGS: list[Heading | str] = [
    "USER", "JOB", "NODE", Heading("GPU", "whole", 4), Heading("SHARE", "whole", 3), Heading("START", "whole"),
    Heading("END", "whole", 1), Heading("GPU-HOURS", "whole"), Heading("USED", "whole", 2),
]  # fmt: skip


def _lease(row: LeaseRow) -> list[str]:
    job = f"{row['namespace']}/{row['job']}" if row["job"] else NOTHING
    return [
        row["user"] or NOTHING, job, row["node"], str(row["device"]),
        "parked" if row["parked"] else f"{row['share']:.0%}",
        _minute(row["start"]), _minute(row["end"]) if row["end"] else "runs", _hours(row["heldGpuHours"]),
        _hours(row["usedGpuHours"]) if row["computeUsed"] is not None else NOTHING,
    ]  # fmt: skip


def _minute(stamp: str) -> str:
    """In UTC, as dates that are given are."""
    return stamp[:16].replace("T", " ")


def _write_csv(rows: Iterable[Mapping[str, object]], names: Iterable[str], *, headers: bool) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if headers:
        writer.writerow(names)
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    safe_output.block(sys.stdout, text.getvalue())


def _cell(value: object) -> object:
    """What a spreadsheet shows as it is: a name may look like a formula."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple(_FORMULA)) else value


def _headings(by: str) -> list[Heading | str]:
    return [
        by.upper(), Heading("LEASES", "whole", 3), Heading("GPU-HOURS", "whole"), Heading("USED", "whole"),
        Heading("IDLE", "whole"), Heading("UNKNOWN", "whole", 2), Heading("PROMISES KEPT", "whole", 1),
        Heading("WAIT PROMISED", "whole", 4), Heading("ACTUAL", "whole", 4),
    ]  # fmt: skip


def _row(row: ReportRow, name: str) -> list[str]:
    kept = f"{row['promisesKept']} of {row['promises']}" if row["promises"] else NOTHING
    return [
        name, str(row["leases"]), _hours(row["heldGpuHours"]), _hours(row["usedGpuHours"]),
        _hours(row["idleGpuHours"]), _hours(row["unknownGpuHours"]), kept, _wait(row["medianPromisedWaitSeconds"]),
        _wait(row["medianActualWaitSeconds"]),
    ]  # fmt: skip


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 0.05 or not hours else "<0.1"


def _wait(seconds: float | None) -> str:
    return NOTHING if seconds is None else format_duration(seconds)
