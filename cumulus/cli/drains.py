"""Drains of nodes at a time to come: made, taken back, and ended where the node is uncordoned."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from cumulus.cli import context, moments, options, terminal
from cumulus.clock import SystemClock, parse_timestamp, short_timestamp, to_the_second
from cumulus.errors import AlreadyExists, Forbidden, NotFound, UsageError
from cumulus.resources import node_drain
from cumulus.resources.documents import lookup
from cumulus.resources.key import Document, Key
from cumulus.resources.kinds import gpunode
from cumulus.resources.kinds.gpupartition import ENDED

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
    wanted = node_drain.document(node, start, duration or node_drain.UNTIL_UNCORDONED)
    with context.client() as client:
        client.get(Key(gpunode.KIND.name, "", node))
        _write(client, node, wanted)
        until = f"for {duration}" if duration else f"until `cumulus uncordon {node}`"
        print(f"gpunode.cumulus.dev/{node} will be drained from {short_timestamp(start)} on, {until}")
        _tell_of_leases(client, node, start)
        context.note_if_no_daemon("jobs are kept from it", client)
    return 0


def ended_by_uncordon(client: Client, node: str) -> bool:
    """Take back the drain of the node, where it has begun; whether there was one. One to come is told."""
    try:
        found = client.get(node_drain.key_of(node))
    except (NotFound, Forbidden):
        return False
    if not node_drain.is_of(found, node):
        return False
    begins = node_drain.begins(found)
    if begins > SystemClock().now():
        terminal.note(
            f"{node} will be drained from {short_timestamp(begins)} on; take that back with: "
            f"cumulus node drain {node} --cancel"
        )
        return False
    client.delete(node_drain.key_of(node), uid=found["metadata"]["uid"])
    return True


def _write(client: Client, node: str, wanted: Document) -> None:
    """Make it, in the place of one that was planned before."""
    try:
        client.create(wanted)
    except AlreadyExists:
        before = _own(client, node)
        client.update({**before, "spec": wanted["spec"]})


def _cancel(node: str) -> int:
    with context.client() as client:
        client.get(Key(gpunode.KIND.name, "", node))
        try:
            found = _own(client, node)
        except NotFound:
            print(f"gpunode.cumulus.dev/{node} is not to be drained")
            return 0
        client.delete(node_drain.key_of(node), uid=found["metadata"]["uid"])
    print(f"gpunode.cumulus.dev/{node} will not be drained")
    return 0


def _own(client: Client, node: str) -> Document:
    """Raises NotFound, and UsageError where it is another's."""
    key = node_drain.key_of(node)
    found = client.get(key)
    if not node_drain.is_of(found, node):
        raise UsageError(
            f"the Reservation {key.name} was made for something else", hint=f"see: cumulus describe resv {key.name}"
        )
    return found


def _tell_of_leases(client: Client, node: str, start: datetime) -> None:
    """What runs there already and goes on into it."""
    try:
        held = client.list(gpunode.partitions(node)).items
    except Forbidden:
        return
    ends = [
        lookup(each, "status.expiresAt")
        for each in held
        if lookup(each, "status.phase") not in ENDED and lookup(each, "status.expiresAt")
    ]
    late = [end for end in ends if parse_timestamp(end) > start]
    if late:
        last = to_the_second(max(late, key=parse_timestamp))
        terminal.note(
            f"{gpunode.leases(len(late))} there go on into it, the last until {last}; once it has begun, "
            f"`cumulus node drain {node} --now` ends them"
        )
