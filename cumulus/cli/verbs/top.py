"""`cumulus top`: what is leased and used now, live on a terminal."""

from __future__ import annotations

import io
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from cumulus.cli import completion, context, options
from cumulus.errors import UsageError
from cumulus.lib import safe_output
from cumulus.lib.table import Heading, Table, names
from cumulus.resources.columns import NOTHING, percent, until
from cumulus.resources.quantity import format_bytes

if TYPE_CHECKING:
    from rich.text import Text

    from cumulus.answers.usage import DeviceUse, ShareUse, UsageNow

_OF = ("nodes", "jobs", "users")
_LEAST = 0.2
_LESS_BYTES = 1024
"""So many fewer than a whole per cent are that per cent still."""
_Rows = list[list[str]]


class _UserUse(NamedTuple):
    """What one user's jobs hold."""

    user: str
    jobs: int
    devices: int
    memory_bytes: int
    compute: int


def top(
    what: Annotated[
        str, typer.Argument(metavar="[nodes|jobs|users]", help="What to show.", autocompletion=completion.one_of(*_OF))
    ] = "nodes",
    once: Annotated[bool, typer.Option("--once", help="Show it once, instead of again and again.")] = False,
    interval: Annotated[str, typer.Option("--interval", metavar="DURATION", help="How often to look.")] = "2s",
    output: options.JsonOutput = "",
    no_headers: options.NoHeaders = False,
) -> None:
    """Show what is leased and used now: of each device, job or user.

    On a terminal the table is renewed until Ctrl-C. Of a device you see what is leased of its memory and compute, what
    processes use, what is leased and idle, what leases hold beyond their size (OVER) and what runs without any lease;
    and its load, power and temperature, as far as its driver tells.

    \b
    Examples:
      cumulus top
      cumulus top jobs
      cumulus top users --once
      cumulus top nodes -o json
    """
    if what not in _OF:
        raise UsageError(f"there is no top {what!r}", hint=f"it is {', '.join(_OF)}")
    options.check_json(output)
    seconds = options.seconds_of(interval, "--interval")
    if seconds < _LEAST:
        raise UsageError(f"--interval is at least {_LEAST:g}s")
    with context.client() as client:
        found = client.usage()
        if output == "json":
            from cumulus.answers.codec import encode
            from cumulus.cli import printers

            uses: dict[str, Sequence[object]] = {
                "nodes": found.devices, "jobs": found.shares, "users": _users(found.shares)
            }  # fmt: skip
            safe_output.block(sys.stdout, printers.to_json([_plain(encode(use)) for use in uses[what]]) + "\n")
            return
        if once or not sys.stdout.isatty():
            headings, rows = _table(what, found)
            Table(headings, sys.stdout, heading=not no_headers).write(rows)
            return
        _live(client.usage, what, found, seconds)


def _live(look: Callable[[], UsageNow], what: str, found: UsageNow, seconds: float) -> None:
    import time

    from rich.console import Console
    from rich.live import Live

    console = Console(file=safe_output.raw(sys.stdout))
    try:
        with Live(_picture(what, found, console.width), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(seconds)
                live.update(_picture(what, look(), console.width), refresh=True)
    except KeyboardInterrupt:
        return


def _picture(what: str, found: UsageNow, room: int) -> Text:
    """A screen of that many columns."""
    from rich.text import Text

    headings, rows = _table(what, found)
    written = io.StringIO()
    table = Table(headings, written, room=room)
    table.write(rows)
    title = f"{what}, {found.time[:19]}Z"
    if table.left_out:
        title += f"; no room for {names(table.left_out)}"
    heading, _, below = written.getvalue().partition("\n")
    # What others wrote is text here, no markup; the table's gate took its control characters.
    return Text.assemble((title, "italic"), "\n", (heading, "bold"), "\n", below, no_wrap=True, overflow="ellipsis")


def _table(what: str, found: UsageNow) -> tuple[Sequence[Heading | str], _Rows]:
    if what == "nodes":
        headings: list[Heading | str] = [
            "NODE", Heading("DEVICE", yields=3), Heading("LEASED", "whole"), Heading("USED", "whole"),
            Heading("IDLE", "whole", 2), Heading("OVER", "whole"), Heading("UNLEASED", "whole", 4),
            Heading("COMPUTE", "whole", 1), Heading("BUSY", "whole"), Heading("POWER", "whole", 5),
            Heading("TEMP", "whole", 5), Heading("STATE", yields=1),
        ]  # fmt: skip
        return headings, [_device(device) for device in found.devices]
    if what == "jobs":
        headings = [
            "NAMESPACE", "NAME", Heading("USER", yields=1), Heading("NODES", yields=2), "DEVICES", "MEMORY", "COMPUTE",
            Heading("ENDS IN", "whole"), Heading("OVER", "whole"),
        ]  # fmt: skip
        return headings, [_share(share, found.time) for share in found.shares]
    rows = [
        [u.user or NOTHING, str(u.jobs), str(u.devices), format_bytes(u.memory_bytes), percent(u.compute)]
        for u in _users(found.shares)
    ]
    return ["USER", "JOBS", "DEVICES", "MEMORY", "COMPUTE"], rows


def _device(use: DeviceUse) -> list[str]:
    def share(size: int | None) -> str:
        if size is None:
            return NOTHING
        if not use.memory_bytes:
            return format_bytes(size)
        # Leases are whole bytes: one of 5% may have a byte less than that.
        return f"{format_bytes(size)} {(size + _LESS_BYTES) * 100 // use.memory_bytes}%"

    return [
        use.node, f"{use.index} {use.name}".strip(), share(use.leased_bytes), share(use.used_bytes),
        share(use.idle_bytes), format_bytes(use.over_bytes) if use.over_bytes else NOTHING,
        format_bytes(use.unleased_bytes) if use.unleased_bytes else NOTHING, percent(use.leased_compute),
        NOTHING if use.busy is None else percent(use.busy),
        NOTHING if use.power_watts is None else f"{use.power_watts:.0f}W",
        NOTHING if use.temperature_celsius is None else f"{use.temperature_celsius}C", use.state,
    ]  # fmt: skip


def _share(share: ShareUse, now: str) -> list[str]:
    from cumulus.clock import parse_timestamp

    ends = until(share.until, parse_timestamp(now)) if share.until else NOTHING
    return [
        share.namespace, share.name, share.user or NOTHING, ",".join(share.nodes), str(share.devices),
        format_bytes(share.memory_bytes), percent(share.compute), ends, "yes" if share.over else NOTHING,
    ]  # fmt: skip


def _users(shares: Sequence[ShareUse]) -> list[_UserUse]:
    """Who holds most first."""
    by_user: dict[str, list[ShareUse]] = defaultdict(list)
    for share in shares:
        by_user[share.user].append(share)
    found = [
        _UserUse(
            user, len(mine), sum(share.devices for share in mine), sum(share.memory_bytes for share in mine),
            sum(share.compute for share in mine),
        )
        for user, mine in by_user.items()
    ]  # fmt: skip
    return sorted(found, key=lambda use: (-use.compute, use.user))


def _plain(value: dict[str, object]) -> dict[str, object]:
    """An answer in the words of the API's JSON."""
    words = {name.split("_")[0] + "".join(p.title() for p in name.split("_")[1:]): v for name, v in value.items()}
    return {name: each for name, each in words.items() if not name.startswith("@")}
