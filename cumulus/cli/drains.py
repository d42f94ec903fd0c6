"""The words of `drain --at` and `drain --cancel`, and of an uncordon that ends such a drain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cumulus.cli import context, moments, options, terminal
from cumulus.clock import SystemClock, parse_timestamp, short_timestamp, timestamp
from cumulus.errors import Forbidden, NotFound, UsageError
from cumulus.resources.kinds.gpunode import leases

if TYPE_CHECKING:
    from cumulus.client.base import Client


def later(node: str, at: str, duration: str, *, cancel: bool, also: bool) -> int:
    """`drain --at TIME --for DURATION`, or `drain --cancel`. `also`: what drains now is given too. Raises
    CumulusError."""
    if also:
        raise UsageError("--now and --timeout are for a drain now", hint="leave them out, or leave --at out")
    if cancel:
        if at or duration:
            raise UsageError("--cancel takes back what --at said", hint="give one of them")
        return _cancel(node)
    if not at:
        raise UsageError("--for is for a drain at a time", hint="as in --at 22:00 --for 2h")
    if duration and not options.seconds_of(duration, "--for"):
        raise UsageError(f"--for: {duration!r} is no time", hint="write 30m or 2h")
    start = moments.to_come(at, "--at", SystemClock().now())
    with context.client() as client:
        planned = client.plan_drain(node, at=timestamp(start), duration=duration)
        until = f"for {duration}" if duration else f"until `cumulus uncordon {node}`"
        print(f"gpunode.cumulus.dev/{node} will be drained from {short_timestamp(start)} on, {until}")
        if planned.leases:
            terminal.note(
                f"{leases(planned.leases)} there go on into it, the last until {planned.last_ends}; once it has begun, "
                f"`cumulus node drain {node} --now` ends them"
            )
        context.note_if_no_daemon("jobs are kept from it", client)
    return 0


def _cancel(node: str) -> int:
    with context.client() as client:
        cancelled = client.cancel_drain(node)
    print(f"gpunode.cumulus.dev/{node} {'will not be drained' if cancelled else 'is not to be drained'}")
    return 0


def ended_by_uncordon(client: Client, node: str) -> bool:
    """Take back the drain of the node, where it has begun; whether there was one. One to come is told."""
    try:
        begins = client.end_drain(node)
    except (NotFound, Forbidden):
        return False
    if begins:
        terminal.note(
            f"{node} will be drained from {short_timestamp(parse_timestamp(begins))} on; take that back with: "
            f"cumulus node drain {node} --cancel"
        )
    return not begins
